"""`unimatrix bench throughput | decode | chunk-length`: speed, measured on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

from unimatrix.cli.arguments import parse
from unimatrix.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class ThroughputOptions:
    """Whole models against the Transformer."""

    models: tuple[str, ...] = ("unimatrix-core",)
    """Presets to compare with the Transformer."""
    lengths: tuple[int, ...] = (64, 128, 256, 512, 2048, 8192)
    """Sequence lengths; batch 8, from 8192 on 2."""
    passes: tuple[str, ...] = ("forward", "training")
    """forward, training, or both."""
    modes: tuple[str, ...] = ("eager", "compile")
    """eager, compile (torch.compile), or both; the better one counts."""
    seconds: float = 6.0
    """Time per length and pass."""
    device: str = "cpu"
    """cpu, cuda, mps."""
    out: Path = Path("benchmarks")
    """Folder for throughput.json and the plot."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodeOptions:
    """Batch-1 decoding, token by token."""

    models: tuple[str, ...] = ("unimatrix-core", "transformer")
    """Presets, built without positions."""
    positions: tuple[int, ...] = (128, 65_536)
    """Tokens before the ones that are timed."""
    seconds: float = 6.0
    """Time per model."""
    device: str = "cpu"
    """cpu, cuda, mps."""
    out: Path = Path("benchmarks")
    """Folder for decode.json."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkLengthOptions:
    """The chunked matrix state alone, over its chunk length."""

    lengths: tuple[int, ...] = (128, 512, 2048)
    """Sequence lengths."""
    chunk_lengths: tuple[int, ...] = (16, 32, 64, 128)
    """Chunk lengths to compare."""
    seconds: float = 4.0
    """Time per length."""
    device: str = "cpu"
    """cpu, cuda, mps."""
    out: Path = Path("benchmarks")
    """Folder for chunk_length.json."""


BENCHMARKS: dict[str, tuple[str, type]] = {
    "throughput": ("unimatrix.bench.throughput", ThroughputOptions),
    "decode": ("unimatrix.bench.decode", DecodeOptions),
    "chunk-length": ("unimatrix.bench.chunk_length", ChunkLengthOptions),
}


def run(arguments: Sequence[str]) -> int:
    """The command; its exit code."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return 0
    name = arguments[0]
    if name not in BENCHMARKS:
        near = get_close_matches(name, BENCHMARKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(BENCHMARKS)}"
        raise UserError(f"bench: unknown benchmark {name!r}; {hint}")
    module, options_type = BENCHMARKS[name]
    options = parse(
        options_type, arguments[1:], command=f"bench {name}", about=(options_type.__doc__ or "").strip()
    )
    measure: Callable[..., Path] = import_module(module).run
    settings = {field: getattr(options, field) for field in options_type.__dataclass_fields__}
    print(f"wrote {measure(settings.pop('out'), **settings)}")
    return 0


def _help() -> str:
    width = max(map(len, BENCHMARKS))
    lines = [f"  {name:<{width}}  {(kind.__doc__ or '').strip()}" for name, (_, kind) in BENCHMARKS.items()]
    return "\n".join(
        [
            "usage: unimatrix bench BENCHMARK [OPTIONS]",
            "",
            "Medians of candidates that take turns in one process; results go to benchmarks/ as JSON and plots.",
            "",
            *lines,
            "",
            "`unimatrix bench BENCHMARK --help` explains its options.",
        ]
    )
