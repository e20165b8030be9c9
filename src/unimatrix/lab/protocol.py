"""How experiments train and measure, in sentences that are made from their own settings.

So no sentence can disagree with what runs. Where experiments differ, a sentence lists what each value is.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from unimatrix.data import VOCAB_SIZE
from unimatrix.data.tasks import (
    MQARConfig,
    RecallConfig,
    SignalNoiseConfig,
    TaskConfig,
    TripleInteractionConfig,
)
from unimatrix.models import Mamba2Config, ModelConfig, settings_of
from unimatrix.train.config import Experiment


def protocol_of(*experiments: Experiment) -> tuple[str, ...]:
    """What the sequences are, the models, the training and the evaluation, a sentence or two each."""
    sources: dict[str, list[Experiment]] = {}
    for found in experiments:
        sources.setdefault(_source(found), []).append(found)
    by_kind = [[one.task for one in found if one.task is not None] for found in sources.values()]
    return (
        *(task_sentence(tasks) for tasks in by_kind if tasks),
        models_sentence(experiments),
        *_merged("Training", {source: training_sentence(found) for source, found in sources.items()}),
        *_merged("Evaluation", {source: evaluation_sentence(found) for source, found in sources.items()}),
    )


def _source(experiment: Experiment) -> str:
    kind = "text" if experiment.task is None else experiment.task.kind
    return {"signal-noise": "signal versus noise"}.get(kind, kind.replace("-", " "))


def _merged(what: str, sentences: Mapping[str, str]) -> Iterator[str]:
    """Equal sentences once, with what they are about where there are several sources."""
    for sentence in dict.fromkeys(sentences.values()):
        about = f" on {listed(source for source, found in sentences.items() if found == sentence)}"
        yield f"{what}{about if len(sentences) > 1 else ''}: {sentence}"


def listed(values: Iterable[object], *, last: str = "and") -> str:
    """ "4, 6 and 8", of each value once, numbers as people read them."""
    texts = list(
        dict.fromkeys(
            f"{value:,}"
            if isinstance(value, int)
            else f"{value:g}"
            if isinstance(value, float)
            else str(value)
            for value in values
        )
    )
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} {last} {texts[-1]}"


def any_of(experiments: Iterable[Experiment], read: Callable[[Experiment], object]) -> str:
    """What they have of a setting: "32", or "200 or 2,000"."""
    return listed(map(read, experiments), last="or")


def models_sentence(experiments: Iterable[Experiment]) -> str:
    """Sizes, positions, initialisation and dropout."""
    found = tuple(experiments)
    resolved = [one.model.resolved(_vocab_size(one)) for one in found]
    configs = [config for config in resolved if isinstance(config, ModelConfig)]
    heads = [
        value
        for config in configs
        for path, value in settings_of(config).items()
        if path.endswith("mixer.num_heads")
    ]
    sizes = {
        "d = {}": [config.d_model for config in configs],
        "{} layers or shared depth steps": [len(config.order) for config in configs],
        "{} heads": heads,
        "{} tokens": map(_vocab_size, found),
        "{} learned positions": [
            "no" if one.model.max_positions is None else one.model.max_positions for one in found
        ],
        "N(0, {}) initialisation": [config.init_std for config in configs],
        "dropout {}": [one.model.dropout for one in found],
    }
    said = "; ".join(words.format(listed(values, last="or")) for words, values in sizes.items())
    other = [one.model.preset for one in found if one.model.changes.get("qkv_init") == "xavier"]
    start = (
        f" Unless a row says otherwise, q, k, v of {listed(other)} start as torch.nn.MultiheadAttention's do."
        if other
        else ""
    )
    peers = dict.fromkeys(_of_mamba2(config) for config in resolved if isinstance(config, Mamba2Config))
    return f"Models: {said}.{start}{''.join(peers)}"


def _of_mamba2(config: Mamba2Config) -> str:
    number, width = config.num_heads, config.inner_width // config.num_heads
    heads = f"{number} {'head' if number == 1 else 'heads'} of {width}"
    return (
        " Mamba-2 is the transformers library's own implementation, started as it starts there: "
        f"d = {config.d_model}, {config.depth} layers, {heads}, a state dimension of {config.state_dim}; it "
        "has no position embeddings."
    )


def _vocab_size(experiment: Experiment) -> int:
    return VOCAB_SIZE if experiment.task is None else experiment.task.vocab_size


def training_sentence(experiments: Sequence[Experiment]) -> str:
    """Steps, optimiser, batches; where a run is evaluated on its way."""
    on_text = experiments[0].task is None
    curricula = [task for one in experiments if isinstance(task := one.task, TripleInteractionConfig)]
    asked = dict.fromkeys(
        (one.loop.eval_at, one.optim.schedule == "constant") for one in experiments if one.loop.eval_at
    )

    def of_loop(name: str) -> str:
        return any_of(experiments, lambda one: getattr(one.loop, name))

    def of_optim(name: str) -> str:
        return any_of(experiments, lambda one: getattr(one.optim, name))

    warmup = any(one.optim.warmup_steps for one in experiments)
    beginning = f"that rises over the first {of_optim('warmup_steps')}, " if warmup else ""
    ends = {one.optim.final_lr_share for one in experiments if one.optim.schedule != "constant"}
    end = f", which falls to {listed(sorted(ends), last='or')} of it" if ends - {0.0} else ""
    clipped = any(one.optim.clip is not None for one in experiments)
    clip = f"gradients of a norm of at most {of_optim('clip')}, " if clipped else ""
    sentences = [
        f"{of_loop('steps')} steps of AdamW at a {of_optim('schedule')} learning rate of "
        f"{of_optim('lr')}{end}, {beginning}weight decay {of_optim('weight_decay')}, {clip}"
        f"batches of {of_loop('batch_size')} "
        f"{'windows' if on_text else 'sequences'} of {of_loop('seq_len')} "
        f"{'bytes' if on_text else 'tokens'}, "
        + (
            "drawn at random positions."
            if on_text
            else "drawn anew for every step, loss at the answer alone."
        )
    ]
    if curricula:
        phases = listed((task.phase_steps for task in curricula), last="or")
        rules = len(curricula[0].rules)
        sentences.append(f"{rules} phases of {phases} steps; phase n draws the rule among the first n.")
    sentences += [
        f"One run for each seed, evaluated after {listed(steps)} steps; "
        + (
            "the learning rate is constant, so that a shorter run would end where an earlier evaluation is."
            if constant
            else "a shorter run's learning rate would have fallen further where an earlier evaluation is."
        )
        for steps, constant in asked
    ]
    return " ".join(sentences)


def evaluated(experiment: Experiment) -> str:
    """Which text an experiment is measured on: "validation" or "test"."""
    return {"valid": "validation", "test": "test"}[experiment.loop.eval_split]


def evaluation_sentence(experiments: Sequence[Experiment]) -> str:
    """What is evaluated, on how much."""
    task = experiments[0].task
    if task is None:
        window = any_of(experiments, lambda one: one.loop.eval_window or one.loop.seq_len)
        return (
            f"bits per byte over the whole {any_of(experiments, evaluated)} text; every byte is predicted "
            "exactly once, from at "
            f"most the {window} bytes before it (windows of {window} side by side, each starting afresh). "
            f"BPB is bits per byte, PPL the perplexity per byte, 2 to the power of BPB."
        )
    each = " of each rule" if isinstance(task, TripleInteractionConfig) else ""
    sentence = (
        f"loss and accuracy of the answer over {task.eval_sequences:,} sequences{each} that training never "
        f"draws, others for each seed, so that the intervals cover the choice of sequences too."
    )
    more = {one.task.eval_num_pairs for one in experiments if isinstance(one.task, RecallConfig)}
    if isinstance(task, RecallConfig) and () not in more:
        sentence += (
            f" Every model trains on {task.num_pairs} pairs and is then evaluated on "
            f"{listed(task.eval_num_pairs)}, each number on sequences of its own."
        )
    mqar = [one.task for one in experiments if isinstance(one.task, MQARConfig)]
    if any(one.eval_cells for one in mqar):
        cells = dict.fromkeys(cell for one in mqar for cell in one.eval_cells)
        words = listed(f"{number:,} pairs in {length:,} tokens" for length, number in cells)
        sentence += f" Trained models are then evaluated on {words} too, each on sequences of its own"
        limits = [one.eval_tokens for one in mqar if one.eval_tokens is not None]
        sentence += f", as many as hold {listed(limits)} tokens at most." if limits else "."
    again = [one.eval_rebound for one in mqar if one.eval_rebound]
    if again:
        words = listed(again)
        sentence += f" Once more with {words} of the keys bound again, to another value: the newest counts."
    return sentence


def task_sentence(tasks: Sequence[TaskConfig]) -> str:
    """What one sequence of these tasks of one kind is."""
    task = tasks[0]
    if isinstance(task, MQARConfig):
        return _mqar([one for one in tasks if isinstance(one, MQARConfig)])
    if isinstance(task, RecallConfig):
        return _recall(task)
    return _signal_noise(task) if isinstance(task, SignalNoiseConfig) else _triple_interaction(task)


def _symbols(number: int, free: int) -> str:
    return (
        f"all {free} free symbols"
        if number == free
        else (f"{number} symbols, chosen for each sequence among the {free} free ones")
    )


def _recall(task: RecallConfig) -> str:
    return (
        f"Sequences of recall: {task.length} tokens. After BOS {task.num_pairs} key-value pairs, then "
        f"filler, a query marker and one of the keys; the answer is its value. Keys and values are drawn "
        f"without replacement from {task.num_keys} and {task.num_values} symbols, filler from "
        f"{_symbols(task.num_fillers, task.num_free)}. The paper leaves the filler open."
    )


def _signal_noise(task: SignalNoiseConfig) -> str:
    return (
        f"Sequences of signal versus noise: {task.length} tokens. After BOS, in any order, one marked value "
        f"(a mark and the value behind it), {task.num_distractors} values without a mark, and noise; the "
        f"last token is a query marker, and the answer is the marked value. The values of a sequence are "
        f"drawn without replacement from {task.num_values}, its noise from "
        f"{_symbols(task.num_noise, task.num_free)}."
    )


def _mqar(tasks: Sequence[MQARConfig]) -> str:
    def of(read: Callable[[MQARConfig], object]) -> str:
        return listed(map(read, tasks), last="or")

    cells = of(lambda one: f"{one.num_pairs:,} key-value pairs in {one.length:,} tokens")
    fillers = {"zero": "blanks", "random": "any tokens", "clean": "any tokens but keys and values of theirs"}
    again = (
        f" Of the keys {of(lambda one: one.num_rebound)} are bound again among the pairs, to another value, "
        "and the newest is the answer."
        if any(one.num_rebound for one in tasks)
        else ""
    )
    passes = of(lambda one: one.num_passes)
    return (
        f"Sequences of multi-query recall as zoology draws it: {cells}. The pairs come first"
        f"{'' if passes == '1' else f', {passes} times'}, and behind them {of(lambda one: one.num_asked)} of "
        f"the keys stand alone, each once, at distances that follow a power law of exponent "
        f"{of(lambda one: one.power)} - 1; the answer there is the key's value.{again} Keys and values are "
        f"drawn without replacement, each from a half of {of(lambda one: one.vocab_size)} tokens; everywhere "
        f"else stand {of(lambda one: fillers[one.filler])}."
    )


def _triple_interaction(task: TripleInteractionConfig) -> str:
    return (
        f"Sequences of triple interaction: {task.length} tokens. After BOS a task token, then "
        f"{task.num_tags} tags with a value in each of three roles A, B, C, a binding being tag, role and "
        f"value side by side in any order, the bindings in any order and filler between them; the last token "
        f"is one of the tags. Values and answers are 0 to {task.num_values - 1}. Rules: copy answers A; "
        f"affine (3 A + 5 B + 7 C + 1) mod {task.num_values}; gate B if A < {task.num_values // 2}, else C; "
        f"lookup a fixed random table's entry at A, B, C. A random table cannot be generalised, only "
        f"covered: for lookup all values of a sequence are among the first {task.lookup_values}, "
        f"{task.lookup_values**3} triples. The paper leaves the formulas, the table and its domain open."
    )
