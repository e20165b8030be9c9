"""Text as a model reads and writes it: stream() as it comes, a Reader in turns, a state kept in a file."""

from types import SimpleNamespace

import pytest
import torch

from unimatrix.data.tokenizer import BOS, EOS, PAD
from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, Reader, save_state, stream


def generated(model, prompt_ids, steps, **settings):
    out = model.generate(torch.tensor([prompt_ids]), max_new_tokens=steps, **settings)
    return out[0, len(prompt_ids) :].tolist()


def test_stream_equals_generate(preset, make_model):
    model, tokenizer = make_model(preset), ByteTokenizer()
    ids = tokenizer.encode_bytes("Once upon")
    expected = generated(model, ids, 40, do_sample=False)
    pieces = list(stream(model, tokenizer, "Once upon", max_new_tokens=40, temperature=0))
    assert "".join(pieces) == tokenizer.decode(expected, skip_special_tokens=True)
    assert all(pieces)

    torch.manual_seed(11)
    expected = generated(model, ids, 40, do_sample=True, temperature=0.8, top_k=20, top_p=0.9)
    settings = {"max_new_tokens": 40, "temperature": 0.8, "top_k": 20, "top_p": 0.9}
    text = "".join(stream(model, tokenizer, b"Once upon", **settings, seed=11))
    assert text == tokenizer.decode(expected, skip_special_tokens=True)
    assert text != "".join(stream(model, tokenizer, "Once upon", **settings, seed=12))


def test_stream_feeds_each_token_once_and_only_when_asked(preset, make_model, count_fed):
    model = make_model(preset)
    shapes = count_fed(model.language_model)
    pieces = stream(model, ByteTokenizer(), "some prompt", temperature=0, max_new_tokens=50)
    assert shapes == []
    next(pieces)
    assert shapes[0] == (1, 11)
    assert len(shapes) < 6
    list(pieces)
    assert shapes == [(1, 11)] + [(1, 1)] * (len(shapes) - 1)


class Scripted:
    """Stands for a model that says the given tokens one after another, whatever it is fed."""

    def __init__(self, tokens, max_positions=None):
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(max_positions=max_positions)
        self.language_model = self
        self.tokens = tokens
        self.fed = []

    def __call__(self, ids, state, *, logits_at):
        assert logits_at == 1
        step = 0 if state is None else state
        self.fed.append(ids[0].tolist())
        logits = torch.zeros(1, 1, 259)
        logits[0, -1, self.tokens[step % len(self.tokens)]] = 50.0
        return logits, step + 1


def say(tokens, prompt="p", **settings):
    return list(stream(Scripted(tokens), ByteTokenizer(), prompt, temperature=0, **settings))


def test_stream_never_splits_a_character():
    assert say([*"aé🙂".encode(), EOS]) == ["a", "é", "🙂"]
    assert say([0xF0, 0x9F, 0x99], max_new_tokens=3) == ["\ufffd"]
    assert say([0xFF, 97, 0xC3, 98, EOS]) == ["\ufffd", "a", "\ufffdb"]
    for data in (b"\xe2\x82", b"\xed\xa0\x80x", bytes(range(250, 256)), b"\xf0\x9f\xff\xc3\xa9"):
        assert "".join(say([*data, EOS])) == data.decode("utf-8", "replace")


def test_stream_stops_at_end_of_sequence_and_hides_special_tokens():
    assert say([97, BOS, PAD, 98, EOS, 99]) == ["a", "b"]
    assert say([EOS]) == []


def test_stream_starts_from_bos_when_there_is_nothing_else():
    for prompt, prepend_bos, first in (("", False, [BOS]), ("x", False, [120]), ("x", True, [BOS, 120])):
        model = Scripted([97])
        list(stream(model, ByteTokenizer(prepend_bos=prepend_bos), prompt, max_new_tokens=2))
        assert model.fed == [first, [97]]


def test_stream_keeps_within_the_positions():
    tokenizer = ByteTokenizer()
    assert "".join(stream(Scripted([97], max_positions=9), tokenizer, "five!")) == "aaaa"
    assert "".join(stream(Scripted([97], max_positions=9), tokenizer, "five!", max_new_tokens=4)) == "aaaa"
    with pytest.raises(UserError, match=r"prompt of 5 tokens \+ max_new_tokens = 5: .* max_positions = 9"):
        stream(Scripted([97], max_positions=9), tokenizer, "five!", max_new_tokens=5)
    with pytest.raises(UserError, match="prompt of 9 tokens"):
        stream(Scripted([97], max_positions=9), tokenizer, "nine char")


def test_stream_fills_real_positions_and_goes_beyond_without_them(preset, make_model, count_fed):
    for max_positions, max_new_tokens, expected in ((16, None, 10), (16, 10, 10), (None, 150, 150)):
        model = make_model(preset, max_positions=max_positions)
        with torch.no_grad():
            model.language_model.embedding.weight[EOS] = 0.0  # its logit is 0, and never the largest
        shapes = count_fed(model.language_model)
        pieces = stream(model, ByteTokenizer(), "prompt", max_new_tokens=max_new_tokens, temperature=0)
        assert "".join(pieces)
        assert len(shapes) == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1, got 0"),
        ({"temperature": -1.0}, "temperature: expected 0 or a positive number"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": 0}, "top_k: expected at least 1"),
        ({"top_p": 0.0}, "top_p: expected 0 < top_p <= 1"),
        ({"top_p": 1.5}, "top_p: expected 0 < top_p <= 1"),
        ({"seed": -1}, "seed: expected at least 0 and below 2.64, got -1"),
        ({"seed": 2**64}, "seed: expected at least 0 and below 2.64"),
        *(({"temperature": wrong}, "temperature: expected") for wrong in ("x", None, True, [1], 10**400)),
        *(({"top_p": wrong}, "top_p: expected") for wrong in ("x", True, float("nan"))),
        *(
            ({name: wrong}, f"{name}: expected a whole number")
            for name in ("max_new_tokens", "top_k", "seed")
            for wrong in ("x", 1.5, True, [1], float("nan"))
        ),
        *(({"prompt": wrong}, "prompt: expected") for wrong in (None, 3, [1], ["a"], bytearray(b"a"))),
        *(({"model": wrong}, "model: expected") for wrong in (None, 3, "x", torch.nn.Linear(2, 2))),
        *(({"tokenizer": wrong}, "tokenizer: expected") for wrong in (None, "x", ByteTokenizer, bytes)),
    ],
)
def test_stream_refuses_arguments_before_it_starts(settings, message):
    given = {"model": Scripted([97]), "tokenizer": ByteTokenizer(), "prompt": "p"}
    with pytest.raises(UserError, match=f"^{message}") as caught:
        stream(**given | settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("temperature", [1e-6, 1e-29, 1e-40, 1e-320])
def test_stream_near_absolute_zero_takes_the_likeliest(make_model, temperature):
    model, tokenizer = make_model("unimatrix-core"), ByteTokenizer()
    likeliest = list(stream(model, tokenizer, "p", max_new_tokens=20, temperature=0))
    assert list(stream(model, tokenizer, "p", max_new_tokens=20, temperature=temperature)) == likeliest


GREEDY = {"max_new_tokens": 12, "temperature": 0}


def text_of(pieces):
    return "".join(pieces)


def test_a_text_in_turns_is_the_text_at_once(preset, make_model, tmp_path):
    model, tokenizer = make_model(preset, max_positions=None), ByteTokenizer()
    whole = text_of(stream(model, tokenizer, "Once upon a time", **GREEDY))
    turns = Reader(model, tokenizer)
    turns.read("Once ")
    turns.read(b"upon a")
    assert text_of(turns.write(" time", **GREEDY)) == whole
    assert turns.num_tokens == 16 + 12
    # what was written is read before the next is: the two halves are what was written in one go
    halves = Reader(model, tokenizer)
    first = text_of(halves.write(b"Once upon a time", max_new_tokens=5, temperature=0))
    path = tmp_path / "half.safetensors"
    halves.save(path)
    kept = Reader.load(path, model, tokenizer)
    assert kept.num_tokens == halves.num_tokens == 21
    again = text_of(kept.write(max_new_tokens=7, temperature=0))
    assert again == text_of(halves.write(max_new_tokens=7, temperature=0))
    if "\ufffd" not in first + again + whole:
        assert first + again == whole
    with pytest.raises(UserError, match=r"^nothing: expected a text that was read, got none yet$"):
        Reader(model, tokenizer).save("nothing")


@pytest.mark.parametrize("name", ["unimatrix-core", "transformer"])
def test_a_long_text_is_read_in_pieces_and_with_one_row_of_logits(name, make_model, count_fed, monkeypatch):
    monkeypatch.setattr("unimatrix.hf.reading.STREAM_PIECE", 40)
    monkeypatch.setattr("unimatrix.hf.reading.LOOK_BACK_PIECE", 30)
    model = make_model(name, max_positions=None)
    expected = model.language_model(torch.tensor([[BOS, *bytes(range(100))]]))[0][:, -1]
    shapes = count_fed(model.language_model)
    seen = []
    model.language_model.register_forward_hook(lambda _, args, out: seen.append(out[0].shape))
    reader = Reader(model, ByteTokenizer(prepend_bos=True))
    reader.read(bytes(range(60)))
    reader.read(bytes(range(60, 100)))
    size = 40 if name == "unimatrix-core" else 30
    first = [(1, min(size, 61 - start)) for start in range(0, 61, size)]
    assert shapes == first + [(1, min(size, 40 - start)) for start in range(0, 40, size)]
    assert set(seen) == {(1, 1, 259)}
    assert torch.allclose(reader._logits, expected, atol=1e-4, rtol=1e-4)


def test_bos_stands_at_the_beginning_alone():
    model = Scripted([0, 0, 97, 98, EOS, 98])
    reader = Reader(model, ByteTokenizer(prepend_bos=True))
    reader.read("x")
    reader.read("y")
    assert list(reader.write("z", temperature=0)) == ["a", "b"]
    assert list(reader.write("!", temperature=0, max_new_tokens=1)) == ["b"]
    # the end that was chosen is no part of the text
    assert model.fed == [[BOS, 120], [121], [122], [97], [98], [33]]
    assert reader.num_tokens == 8


def test_a_prompt_joins_the_text_when_it_is_given():
    model = Scripted([97, 98])
    reader = Reader(model, ByteTokenizer())
    pieces = reader.write("x", temperature=0)
    assert (reader.num_tokens, model.fed) == (1, [])
    reader.read("y")  # behind the prompt, not before it
    assert model.fed == [[120, 121]]
    assert next(pieces) == "a"


@pytest.mark.parametrize(("prepend_bos", "room"), [(False, 10), (True, 9)])
def test_room_is_what_can_be_read(make_model, prepend_bos, room):
    model = make_model("unimatrix-core", max_positions=10)
    for more in (0, 1):
        reader = Reader(model, ByteTokenizer(prepend_bos=prepend_bos))
        assert reader.room() == room
        if more:
            with pytest.raises(UserError, match=r"^text of 11 tokens: more than max_positions = 10"):
                reader.read(b"x" * (room + 1))
        else:
            reader.read(b"x" * room)
            assert reader.room() == 0
    assert Reader(make_model("unimatrix-core", max_positions=None), ByteTokenizer()).room() is None


def test_a_text_beyond_the_positions_is_refused(make_model, tmp_path):
    model, tokenizer = make_model("unimatrix-core", max_positions=10), ByteTokenizer()
    reader = Reader(model, tokenizer)
    reader.read("five!")
    with pytest.raises(UserError, match=r"^text of 11 tokens: more than max_positions = 10; a model built"):
        reader.read("six...")
    reader.save(tmp_path / "state")
    kept = Reader.load(tmp_path / "state", model, tokenizer)
    with pytest.raises(UserError, match=r"^prompt of 8 tokens \+ max_new_tokens = 3: more than"):
        kept.write("six", max_new_tokens=3)
    assert text_of(kept.write("six", temperature=0, max_new_tokens=2))


def test_a_state_without_logits_needs_something_to_read(make_model, tmp_path):
    model, tokenizer = make_model("unimatrix-core"), ByteTokenizer()
    _, state = model.language_model(torch.tensor([list(b"some")]))
    save_state(state, tmp_path / "state", model.language_model)
    reader = Reader.load(tmp_path / "state", model, tokenizer)
    with pytest.raises(UserError, match=r"^prompt: expected a text, as the state was kept without"):
        reader.write(max_new_tokens=1)
    whole = text_of(stream(model, tokenizer, "some text", **GREEDY))
    assert text_of(reader.write(" text", **GREEDY)) == whole


def test_a_state_that_leads_to_no_numbers_is_named(make_model, tmp_path):
    model, tokenizer, path = make_model("unimatrix-core"), ByteTokenizer(), tmp_path / "state"
    reader = Reader(model, tokenizer)
    reader.read("some")
    reader._state.steps[0]["mixer"].matrix.fill_(1e38)
    reader.save(path)
    kept = Reader.load(path, model, tokenizer)
    with pytest.raises(UserError, match=rf"^{path}: .*(nan|NaN)"):
        kept.read(" text")
