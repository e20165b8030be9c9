"""What a model is asked, what it answers alone and beside others, its score, and where it is kept."""

import copy
import json
from dataclasses import replace
from functools import wraps
from types import SimpleNamespace

import pytest
import torch
from small_models import one_thread as one_thread
from small_models import small_settings
from tiny_llama import save_tiny_llama

from unimatrix.data.tasks.ruler import RULER, Haystack
from unimatrix.errors import UserError
from unimatrix.evals import ruler
from unimatrix.evals.ruler import (
    Settings,
    heeds_masks,
    plan,
    predict,
    read_rows,
    run_ruler,
    score,
    string_match_all,
)
from unimatrix.hf import ByteTokenizer, UniMatrixForCausalLM
from unimatrix.hf.any_model import CausalModel, load_causal
from unimatrix.models import build

FEW = Settings(tasks=("niah_single_1", "fwe"), lengths=(800, 900), samples=3)

# predictions, answers and what string_match_all of the official suite (c3f5e3b) gives them
OFFICIAL = (
    ([" 1234567."], [["1234567"]], 100.0),
    (["1234567 and 7654321", ""], [["1234567", "7654321", "1111111"], ["x"]], 33.33),
    (["the SEA, sky", "abc"], [["Sea", "SKY", "wind"], ["B", "d", "e"]], 50.0),
    (["AB CDE\x00FG"], [["ABCDE", "CDE", "FG"]], 66.67),
    (["1. sea 2. sky"] * 3, [["sea", "sky"], ["sea", "mud"], ["mud"]], 50.0),
)


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours")
    torch.manual_seed(0)
    model = build("unimatrix-core", **small_settings("unimatrix-core"), max_positions=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    UniMatrixForCausalLM.from_language_model(model.eval()).save_pretrained(folder)
    ByteTokenizer().save_pretrained(folder)
    return load_causal(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    # what its own settings ask for would answer otherwise
    folder = tmp_path_factory.mktemp("llama")
    return load_causal(
        save_tiny_llama(folder, do_sample=True, temperature=9.0, repetition_penalty=3.0, max_new_tokens=1)
    )


@pytest.fixture(params=["ours", "llama"])
def causal(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def rows(tmp_path):
    return tmp_path / "new" / "rows.jsonl"


def drawn(cell):
    return [cell.sample(index) for index in range(cell.samples)]


@pytest.mark.parametrize(("predictions", "answers", "official"), OFFICIAL)
def test_scores_are_the_official_ones(predictions, answers, official) -> None:
    assert round(string_match_all(predictions, answers), 2) == official


def test_control_characters_are_line_breaks() -> None:
    assert score("12\x0034", ["12\n34"]) == 100.0


@pytest.mark.parametrize("name", RULER)
def test_who_knows_the_answers_scores_all_and_who_says_nothing_none(ours, name) -> None:
    """Within the tokens that an answer may have."""
    (cell,) = plan(ours, Settings(tasks=(name,), lengths=(9000,), samples=2))
    samples = drawn(cell)
    told = {sample.prompt: sample.written for sample in samples}

    def generate(*, input_ids, attention_mask, max_new_tokens):
        written = [
            told[ours.tokenizer.decode(row[mask.bool()])].encode() + b"?" * 300
            for row, mask in zip(input_ids, attention_mask, strict=True)
        ]
        answers = [list(answer[:max_new_tokens]) for answer in written]
        return torch.cat([input_ids, torch.tensor(answers)], dim=1)

    oracle = SimpleNamespace(
        generate=generate,
        generation_config=ours.model.generation_config,
        device=torch.device("cpu"),
        training=False,
        eval=lambda: None,
        train=lambda mode: None,
    )
    knows = CausalModel(model=oracle, tokenizer=ours.tokenizer, folder=ours.folder)
    answers = [sample.answers for sample in samples]
    assert string_match_all(predict(knows, samples), answers) == 100.0
    told = dict.fromkeys(told, "")
    assert string_match_all(predict(knows, samples), answers) == 0.0


def test_lengths_are_counted_in_what_the_model_reads(causal) -> None:
    for cell in plan(causal, FEW):
        for sample in drawn(cell):
            ids = causal.tokenizer(sample.prompt)["input_ids"]
            assert sample.prompt_tokens == len(ids)
            assert len(ids) + sample.answer_tokens <= cell.length
    assert (ids[0] == 0) == (causal.max_positions is not None)  # the Llama's BOS


def test_a_sample_is_answered_beside_others_as_alone_and_by_the_likeliest_token(causal) -> None:
    samples = [sample for cell in plan(causal, FEW) for sample in drawn(cell)][2:5]
    samples = [replace(sample, answer_tokens=8 + number) for number, sample in enumerate(samples)]
    assert len({(sample.prompt_tokens, sample.answer_tokens) for sample in samples}) > 1
    model, before = causal.model, causal.model.generation_config
    together = predict(causal, samples)
    assert model.generation_config is before
    assert together == [predict(causal, [sample])[0] for sample in samples]
    ends = model.generation_config.eos_token_id
    for sample, said in zip(samples, together, strict=True):
        ids = causal.tokenizer(sample.prompt)["input_ids"]
        answer: list[int] = []
        while len(answer) < sample.answer_tokens:
            with torch.no_grad():
                token = int(model(torch.tensor([ids + answer])).logits[0, -1].argmax())
            if token == ends:
                break
            answer.append(token)
        assert said == causal.tokenizer.decode(answer, skip_special_tokens=True)


@pytest.mark.parametrize("pad", [-1, 10**6])
def test_padding_that_a_model_does_not_know_is_not_fed_to_it(llama, monkeypatch, pad) -> None:
    """Settings of public models have such ids: -1, or a token that was added to the tokenizer alone."""
    samples = [sample for cell in plan(llama, FEW) for sample in drawn(cell)][:3]
    alone = [predict(llama, [sample])[0] for sample in samples]
    settings = copy.deepcopy(llama.model.generation_config)
    # one of the likelier tokens ends an answer before others are done
    ids = llama.tokenizer(alone[0])["input_ids"]
    settings.eos_token_id, settings.pad_token_id = [-1, ids[2]], pad
    monkeypatch.setattr(llama.model, "generation_config", settings)
    expected = [predict(llama, [sample])[0] for sample in samples]
    assert len(set(map(len, expected))) > 1
    assert predict(llama, samples) == expected


def test_a_model_that_heeds_no_mask_answers_one_at_a_time(ours, llama, tmp_path, monkeypatch) -> None:
    assert heeds_masks(ours)
    assert heeds_masks(llama)
    forward = llama.model.forward

    @wraps(forward)
    def unmasked(*given, attention_mask=None, position_ids=None, **named):
        return forward(*given, **named)

    monkeypatch.setattr(llama.model, "forward", unmasked)
    assert not heeds_masks(llama)
    asked: list[int] = []
    real = ruler.predict
    monkeypatch.setattr(ruler, "predict", lambda *given: asked.append(len(given[1])) or real(*given))
    run_ruler(llama, plan(llama, FEW), FEW, path=tmp_path / "rows.jsonl", name="llama", batch_size=3)
    assert set(asked) == {1}


def test_answers_that_may_be_of_other_lengths_are_asked_apart(ours, tmp_path, monkeypatch) -> None:
    asked: list[set[int]] = []
    monkeypatch.setattr(
        ruler,
        "predict",
        lambda _, samples: asked.append({one.answer_tokens for one in samples}) or [""] * len(samples),
    )
    settings = Settings(tasks=("cwe",), lengths=(2300,), samples=8)
    (cell,) = plan(ours, settings)
    run_ruler(ours, [cell], settings, path=tmp_path / "rows.jsonl", name="ours", batch_size=8)
    assert [len(lengths) for lengths in asked] == [1] * len(asked)
    assert len(set().union(*asked)) > 1, "else nothing is told apart"


def test_nothing_is_answered_twice(ours, rows, monkeypatch) -> None:
    cells, asked = plan(ours, FEW), []

    def counted(causal, samples):
        asked.append(len(samples))
        return predict(causal, samples)

    monkeypatch.setattr(ruler, "predict", counted)
    told: list[int] = []
    first = run_ruler(ours, cells, FEW, path=rows, name="m", batch_size=2, progress=told.append)
    assert (asked, sum(told)) == ([2, 1] * 4, 12)
    assert [(row.task, row.length, row.sample) for row in first] == [
        (name, length, index) for name in FEW.tasks for length in FEW.lengths for index in range(3)
    ]
    assert list(read_rows(rows)) == first
    # all of it again, and more samples of it
    assert run_ruler(ours, cells, FEW, path=rows, name="m", batch_size=2, progress=told.append) == first
    more = Settings(tasks=("fwe",), lengths=(900,), samples=4)
    again = run_ruler(ours, plan(ours, more), more, path=rows, name="m")
    assert (asked[8:], again[:3]) == ([1], first[-3:])


def test_a_line_that_was_cut_short_is_answered_again(ours, rows) -> None:
    settings = Settings(tasks=("fwe",), lengths=(800,), samples=2)
    first = run_ruler(ours, plan(ours, settings), settings, path=rows, name="m")
    rows.write_bytes(rows.read_bytes()[:-9])
    again = run_ruler(ours, plan(ours, settings), settings, path=rows, name="m")
    assert [row.prediction for row in again] == [row.prediction for row in first]
    assert len(list(read_rows(rows))) == len(rows.read_bytes().splitlines()) == 2
    other = json.loads(rows.read_bytes().splitlines()[0]) | {"score": 100.0}
    rows.write_text(json.dumps(other) + "\n")
    with pytest.raises(UserError, match=r"line 1: score: expected 0, the prediction's, got 100"):
        run_ruler(ours, plan(ours, settings), settings, path=rows, name="m")
    rows.write_bytes(b"{}\n" + rows.read_bytes())
    with pytest.raises(UserError, match=r"rows\.jsonl, line 1: model: expected this field, got none"):
        run_ruler(ours, plan(ours, settings), settings, path=rows, name="m")


@pytest.mark.parametrize("what", ["seed", "haystack", "model", "length"])
def test_what_is_asked_otherwise_is_answered_anew(ours, llama, rows, what) -> None:
    settings = Settings(tasks=("niah_multikey_1",), lengths=(1500,), samples=1)
    run_ruler(ours, plan(ours, settings), settings, path=rows, name="m")
    values = {"seed": 1, "haystack": Haystack.from_bytes(b"One came. Two saw."), "length": (1510,)}
    other = llama if what == "model" else ours
    changed = {} if what == "model" else {"lengths" if what == "length" else what: values[what]}
    settings = Settings(**{"tasks": settings.tasks, "lengths": settings.lengths, "samples": 1} | changed)
    (row,) = run_ruler(other, plan(other, settings), settings, path=rows, name="m")
    first, second = read_rows(rows)
    assert second == row
    assert first.identity != second.identity
    assert (first.haystack, second.haystack == "noise") == ("noise", what != "haystack")


def test_a_row_says_where_it_comes_from(llama, rows) -> None:
    settings = Settings(tasks=("fwe",), lengths=(800,), samples=1)
    (row,) = run_ruler(llama, plan(llama, settings), settings, path=rows, name="a model")
    (line,) = map(json.loads, rows.read_text().splitlines())
    assert line["prediction"] == row.prediction
    assert (row.model, row.model_sha256, row.dtype, row.device) == (
        "a model",
        llama.sha256(),
        "float32",
        "cpu",
    )
    assert (row.backend, row.version, row.words, row.haystack) == ("torch", ruler.VERSION, None, None)
    assert row.provenance.keys() >= {"commit", "date", "machine", "versions"}
    assert row.provenance["versions"].keys() >= {"torch", "transformers"}


def test_lengths_that_a_task_or_the_model_has_not_are_told(ours, llama, monkeypatch) -> None:
    monkeypatch.setattr(ruler, "host_bytes", lambda: 2**34)
    with pytest.raises(UserError, match="lengths: expected at most the model's 2,000 positions, got 2,001"):
        plan(llama, Settings(lengths=(100, 2001)))
    with pytest.raises(UserError, match=r"lengths: 2,147,483,648 tokens: needs at least 64\.0 GiB"):
        plan(ours, Settings(tasks=("vt",), lengths=(2**31,)))
    small, large = plan(ours, Settings(tasks=("vt",), lengths=(100, 3000), samples=1))
    assert (small.samples, str(small.refused)[:32]) == (0, "vt: expected a length of at leas")
    assert (large.samples, large.refused) == (1, None)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"tasks": ("niah",)}, "tasks: unknown task 'niah'; did you mean"),
        ({"tasks": ("vt", "vt")}, "tasks: expected one or more, each once"),
        ({"lengths": ()}, "lengths: expected one or more, each once"),
        ({"lengths": (0,)}, "lengths: expected more than 0"),
        ({"samples": 0}, "samples: expected more than 0"),
    ],
)
def test_settings_that_ask_for_nothing_are_told(settings, complaint) -> None:
    with pytest.raises(UserError, match=complaint):
        Settings(**settings)
