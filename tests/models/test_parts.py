"""Parts on ports: what a model can be made of, a part from outside the package, and what is refused."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from outside_part import Surprise, SurpriseConfig
from tolerances import assert_close
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from trained_size import random_ids
from transformers import AutoModelForCausalLM

import unimatrix
import unimatrix.hf
from unimatrix import UserError
from unimatrix.errors import UserTypeError
from unimatrix.mixers import (
    MLP,
    ConvolutionConfig,
    Given,
    MatrixStateConfig,
    MLPConfig,
    Part,
    PartConfig,
    PreviousTokenRoutingConfig,
    TripleLatentConfig,
    parts,
    register,
)
from unimatrix.mixers.part import PORTS
from unimatrix.models import (
    LanguageModel,
    ModelConfig,
    edit,
    estimate,
    language_model,
    parameter_count,
    preset_config,
    presets,
)
from unimatrix.models import config as config_module
from unimatrix.models.block import Block

IDS = random_ids(2, 30)
MASK = torch.ones(2, 30, dtype=torch.bool)
MASK[0, :4] = MASK[1, 10:13] = False
SURPRISED = {"layers.0.store": SurpriseConfig()}


def surprised(**changes) -> LanguageModel:
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix-core", **SURPRISED, **changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


def test_every_part_says_what_it_is():
    known = unimatrix.parts()
    assert {"attention", "matrix_state", "slots", "mlp", "layer_norm", "tied", "surprise"} <= known.keys()
    for kind, part in known.items():
        assert part.config.kind == kind
        assert part.about.endswith((".", ":"))
        assert part.settings.keys() == {field.name for field in dataclasses.fields(part.config)}
        assert part.config.gives <= PORTS
    assert known["slots"].settings["num_slots"] == 32


def test_an_outside_part_stands_in_a_model():
    model = surprised()
    whole, _ = model(IDS, mask=MASK)
    pieces, state = [], None
    for piece in (slice(0, 1), slice(1, 11), slice(11, 30)):
        logits, state = model(IDS[:, piece], state, mask=MASK[:, piece])
        pieces.append(logits)
    assert_close(torch.cat(pieces, 1)[MASK], whole[MASK], "logits")
    # the votes are made of the model's own logits, at the asked positions alone
    features = model.features(IDS, mask=MASK)
    assert list(features.heard) == [("blocks.0.store", step) for step in range(3)]
    expected = model.words(features)
    for given in features.heard.values():
        expected = model.blocks[0].store.vote(expected, features.hidden, given.votes)
    assert torch.equal(whole, expected)
    assert not torch.equal(whole, model.words(features))
    assert_close(model.logits(features, at=2), whole[:, -2:], "logits")
    assert unimatrix.state_bytes(state) > 0


@pytest.mark.parametrize("settings", [{}, {"rule_mixing": True}, {"backend": "reference"}])
def test_the_error_is_that_of_the_state_before_the_write(settings):
    model = surprised(num_heads=2, state_dim=8, depth=1, **settings).double()
    features = model.features(IDS, mask=MASK)
    (error,) = features.heard["blocks.0.store", 0].seen
    mixer, block = model.blocks[0].mixer, model.blocks[0]
    x = model.embedding(IDS) + model.positions((MASK.cumsum(1) - 1).clamp_min(0))
    u = block.mixer_norm(x)
    written = mixer._written(mixer._products(u), u, None, MASK, None, with_idle=True)
    for row in range(2):
        state = None
        for t in range(30):
            if not MASK[row, t]:
                assert error[row, t] == 0.0
                continue
            k, v = written.k[row, t], written.v[row, t]
            matrix = torch.zeros(2, 8, 8).double() if state is None else state.matrix[0]
            held = (matrix @ v[..., None])[..., 0] / v.square().sum(-1, keepdim=True)
            expected = ((k - held).norm(dim=-1) / k.norm(dim=-1)).mean()
            assert error[row, t].item() == pytest.approx(expected.item(), rel=1e-6)
            _, state = mixer(u[row : row + 1, t : t + 1], state)


def test_an_outside_part_trains_saves_loads_generates(tmp_path):
    model = surprised()
    wrapped = unimatrix.hf.UniMatrixForCausalLM.from_language_model(model)
    loss = wrapped(IDS, labels=IDS).loss
    loss.backward()
    assert model.blocks[0].store.weight.grad is not None
    wrapped.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(IDS).logits, wrapped(IDS).logits)
    assert loaded.config.to_model_config() == model.config
    out = loaded.generate(IDS[:, :4], max_new_tokens=3, do_sample=False)
    assert out.shape == (2, 7)
    # a process that has not imported it says what is missing
    code = f"from unimatrix.hf import UniMatrixConfig; UniMatrixConfig.from_pretrained({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "unknown kind 'surprise'" in done.stderr
    assert "import that first" in done.stderr


def test_the_command_line_knows_an_imported_part(tmp_path):
    text = tmp_path / "text.txt"
    text.write_bytes(b"abcdefgh " * 400)
    common = ["--steps", "2", "--seq-len", "16", "--batch-size", "2", "--depth", "1", "--tracker", "none"]
    command = [sys.executable, "-m", "unimatrix", "--import", "outside_part", "train", str(text), *common]
    command += ["--out", str(tmp_path / "run"), "--set", "layers.0.store=surprise"]
    command += ["--set", "layers.0.store.strength=1.5", "--save-every", "2"]
    here = str(Path(__file__).parents[1])
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    # what is said to come next knows the part too
    assert f"unimatrix --import outside_part generate {tmp_path / 'run'}" in done.stdout
    (stored,) = (tmp_path / "run").glob("checkpoint-*/config.json")
    config = ModelConfig.from_dict(json.loads(stored.read_text())["model"])
    assert config.layers[0]["store"] == SurpriseConfig(strength=1.5)


def test_the_command_line_names_a_module_that_is_not_there(capsys):
    from unimatrix.cli import main

    assert main(["--import", "nowhere_at_all", "models"]) == 2
    assert main(["--import"]) == 2
    assert "nowhere_at_all" in capsys.readouterr().err


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ShyConfig(PartConfig):
    """Gives another port than it says."""

    kind: ClassVar[str] = "shy"
    role: ClassVar[str] = "feed"

    def build(self, size):
        return Shy()


class Shy(Part):
    def give(self, x, state, at, given):
        return Given(late=x), None


def test_a_port_that_is_not_declared_is_refused():
    register(Shy, ShyConfig)
    model = unimatrix.build("unimatrix-core", **{"layers.0.feed_forward": ShyConfig()})
    with pytest.raises(UserError, match="feed_forward: gives late, expected only what its config declares"):
        model(IDS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "no name"}, "register: expected .*kind to be a name, got 'no name'"),
        ({"role": "middle"}, "role to be one of"),
        ({"gives": frozenset({"nowhere"})}, "expected ports of wrong among .*, got nowhere"),
        ({"gives": frozenset({"votes"})}, "expected a vote of MLP's own, as wrong gives votes"),
        ({"build": PartConfig.build}, "expected WrongConfig to have a build"),
        ({"name": "x", "__annotations__": {"name": str}}, "no setting of wrong to be called name"),
        ({"kind": "attention"}, "kind 'attention' is unimatrix.mixers.attention.AttentionConfig's"),
    ],
)
def test_a_wrong_registration_is_one_line(changes, message):
    members = {"kind": "wrong", "role": "feed", "__annotations__": {}, "build": MLPConfig.build} | changes
    config = dataclasses.dataclass(frozen=True)(type("WrongConfig", (PartConfig,), members))
    with pytest.raises(UserError, match=message):
        register(MLP, config)
    assert "wrong" not in parts()


def test_what_is_no_part_is_refused():
    for module, config in ((Shy, dict), (Shy, Shy), (dict, ShyConfig), (None, ShyConfig)):
        with pytest.raises(UserTypeError, match=r"^register: expected"):
            register(module, config)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {
                "layers": ({"mixer": TripleLatentConfig()},),
                "parts": {"routing": PreviousTokenRoutingConfig()},
            },
            "parts.routing: expected a layer's part that reads what previous_token gives",
        ),
        ({"layers": ({"mixer": TripleLatentConfig(), "s": SurpriseConfig()},)}, "layers.0.s: .* gives error"),
        (
            {"layers": ({"s": SurpriseConfig(), "mixer": MatrixStateConfig()},)},
            "layers.0.s: expected a part before it in its layer that gives error",
        ),
        ({"layers": ({},)}, "layers.0: expected at least one part, got none"),
        (
            {"layers": ({"mixer": ConvolutionConfig()},)},
            "layers.0.mixer: expected a part of role mix or feed",
        ),
        ({"parts": {"mixer": MatrixStateConfig()}}, "parts.mixer: expected a part of role model"),
        ({"layers": ()}, "order: expected 1 to 4,096 depth steps, got 0"),
        ({"order": (0, 1, 2, 3)}, "order: expected each of the layers 0 to 2 and no other"),
        (
            {"layers": ({"mixer_norm": MLPConfig()},)},
            "a name that a model does not use itself, got 'mixer_norm'",
        ),
        ({"parts": {"train": ConvolutionConfig()}}, "a name that a model does not use itself, got 'train'"),
        ({"parts": {"Big": ConvolutionConfig()}}, "expected names of small letters, digits and _, got 'Big'"),
        ({"parts": {"x": 3}}, "x: expected a part's config, got 3"),
    ],
)
def test_what_cannot_work_is_refused_when_the_config_is_made(config, message):
    with pytest.raises(UserError, match=message):
        ModelConfig(**config)


def test_lists_that_no_model_has_are_not_looked_through():
    values = ModelConfig(d_model=8, layers=({"mlp": MLPConfig()},)).to_dict()
    layer = values["layers"][0]
    many = [layer[0] | {"name": f"part{number}"} for number in range(5000)]
    for change, name in (
        ({"layers": [layer] * 5000}, "layers"),
        ({"order": [0] * 5000}, "order"),
        ({"parts": many}, "parts"),
        ({"layers": [layer, many]}, "layers: 1"),
    ):
        with pytest.raises(UserError, match=f"^model config: {name}: expected at most 4,096, got 5,000$"):
            ModelConfig.from_dict(values | change)


def test_a_part_takes_no_name_that_a_model_or_block_has():
    model = LanguageModel(ModelConfig(d_model=8, layers=({"mlp": MLPConfig()},)))
    own = {name for kind in (LanguageModel, Block) for name in vars(kind)} | vars(model).keys()
    own |= vars(model.blocks[0]).keys() | model._modules.keys() | {"mixer_norm", "feed_forward_norm"}
    for name in own:
        if name.isidentifier() and name == name.lower() and not name.startswith("_"):
            taken = name in config_module.TAKEN or name.endswith("_norm") or hasattr(torch.nn.Module(), name)
            assert taken, name


def test_layers_of_any_parts():
    """A half may be missing, a layer may have one part, and stand anywhere in the order."""
    config = ModelConfig(
        d_model=16,
        layers=(
            {"mixer": MatrixStateConfig(num_heads=2, state_dim=4)},
            {"feed_forward": MLPConfig(), "second": MLPConfig(expansion=1)},
        ),
        order=(0, 1, 0, 1, 1),
    )
    model = LanguageModel(config).eval()
    whole, _ = model(IDS)
    first, state = model(IDS[:, :7])
    second, _ = model(IDS[:, 7:], state)
    assert_close(torch.cat([first, second], 1), whole, "logits")
    assert [sorted(step) for step in state.steps] == [["mixer"], [], ["mixer"], [], []]


# torch looks whether a block's input, which is no leaf, has a gradient, and warns itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
@pytest.mark.parametrize("name", [*presets(), "surprised"])
def test_blocks_compile_one_by_one(name):
    torch.compiler.reset()
    torch.manual_seed(0)
    changes: dict = {"max_positions": None} | ({} if name == "unimatrix-hybrid" else {"depth": 1})
    model = surprised(**changes) if name == "surprised" else unimatrix.build(name, **changes).eval()
    expected, state = model(IDS)
    for number, block in enumerate(model.blocks):
        model.blocks[number] = torch.compile(block, backend="aot_eager")
    got, after = model(IDS)
    assert_close(got, expected, "logits")
    assert_close(model(IDS[:, :1], after)[0], model(IDS[:, :1], state)[0], "logits")


def test_an_edit_of_an_outside_part_goes_through_every_door():
    path = {"layers.0.store.strength": 0.5}
    config = edit(preset_config("unimatrix-core", **SURPRISED), path)
    assert config.layers[0]["store"].strength == 0.5
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert isinstance(unimatrix.build(config).blocks[0].store, Surprise)
    hf = unimatrix.hf.UniMatrixConfig.from_preset("unimatrix-core", **SURPRISED, **path)
    assert hf.to_model_config() == config


def outside(kind: str, module: type, role: str = "feed"):
    """A registered config of a part that is made here."""

    class Config(PartConfig):
        def build(self, size):
            return module()

    Config.__annotations__ = {}
    Config.kind, Config.role, Config.__qualname__ = kind, role, kind
    config = dataclasses.dataclass(frozen=True)(Config)
    register(module, config)
    return config()


class Bare(Part):
    def __init__(self):
        super().__init__()
        self.mu = torch.nn.Parameter(torch.zeros(3))

    def forward(self, x, state=None, *, mask=None):
        return x


class Mislaid(Part):
    def give(self, x, state, at, given):
        return Given(add=x), (x[:, -1],)


class OneTensor(Part):
    def forward(self, x, state=None, *, mask=None):
        return x


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Bare, r"Bare\.mu: expected an init_weights"),
        (Mislaid, r"state\.steps\[0\].*state_layout"),
        (OneTensor, r"OneTensor: expected forward.* to return \(y, state\)"),
    ],
)
def test_a_part_that_does_not_say_enough_is_told_so(module, message):
    part = outside(module.__name__.lower(), module)
    with pytest.raises(UserError, match=message):
        # two rows: a tensor of two would come apart as (y, state)
        unimatrix.build("unimatrix-core", **{"layers.0.feed_forward": part})(IDS)


def test_a_whole_number_is_a_float_where_one_is_due():
    strength = unimatrix.build("unimatrix-core", **SURPRISED, strength=2).config.layers[0]["store"].strength
    assert strength == 2.0
    assert (
        type(preset_config("unimatrix-assoc", temperature=3).layers[0]["associations"].temperature) is float
    )


@pytest.mark.parametrize("wrap", ["hook", "checkpoint", "compile"])
def test_a_part_is_called_whatever_is_put_around_it(wrap):
    """Hooks, torch.compile and checkpoint_wrapper see every part's forward, in a layer and beside them."""
    torch.compiler.reset()
    model = surprised(**{"parts.memory": "slots", "parts.convolution": "convolution"})
    expected, calls = model(IDS)[0], []

    def backend(graph, _):
        calls.append(graph)
        return graph

    for home, name in (
        (model.blocks[0], "mixer"),
        (model.blocks[0], "feed_forward"),
        (model, "memory"),
        (model, "convolution"),
    ):
        part = getattr(home, name)
        before = len(calls)
        if wrap == "hook":
            part.register_forward_hook(lambda *_: calls.append(_) or None)
        elif wrap == "checkpoint":
            inner = part.forward
            part.forward = lambda *a, inner=inner, **k: (calls.append(a), inner(*a, **k))[1]
            setattr(home, name, checkpoint_wrapper(part))
        else:
            setattr(home, name, torch.compile(part, backend=backend))
        with torch.no_grad():
            assert_close(model(IDS)[0], expected, "logits")
        assert len(calls) > before, name
    if wrap == "checkpoint":
        calls.clear()
        model(IDS)[0].sum().backward()
        assert len(calls) > 3 + 3 + 1 + 1  # computed once more for the gradient


def test_estimates_of_layers_that_only_go_together():
    """What one layer gives another may read: no layer need work alone."""
    hybrid = edit(preset_config("unimatrix-rosa"), {"order": (0, 1), "layers.0.mixer": "attention"})
    model = unimatrix.build(hybrid)
    assert estimate(hybrid).parameters == parameter_count(model)
    varied = edit(hybrid, {"order": (0, 1, 0, 1, 1), "parts.steps": "step_embeddings"})
    assert estimate(varied).parameters == parameter_count(LanguageModel(varied))


class Before(Part):
    """The token before, which it forgets between calls."""

    def give(self, x, state, at, given):
        return Given(add=torch.nn.functional.pad(x[:, :-1], (0, 0, 1, 0))), None


def test_a_mixer_without_a_state_reads_a_text_whole_and_no_packed_documents(monkeypatch):
    part = outside("before", Before, role="mix")
    model = unimatrix.build("unimatrix-core", max_positions=None, **{"layers.*.mixer": part})
    monkeypatch.setattr(language_model, "PIECE_TOKENS", 21)
    ids = torch.randint(0, 256, (1, 50))
    with torch.no_grad():
        whole = model(ids)[0]
    torch.testing.assert_close(whole, model(ids)[0])
    with pytest.raises(UserError, match=r"layers\.0\.mixer \(before\)"):
        model(ids, starts=torch.arange(50).eq(9)[None])
