"""Bytes in, the same bytes out, through every door that transformers has."""

import json
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AddedToken

from unimatrix.data.tokenizer import BOS, EOS, PAD
from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer
from unimatrix.hf.tokenizer import EOS_TOKEN

TOKENIZER = ByteTokenizer()
any_text = st.text(st.characters(exclude_categories=("Cs",)))


def test_vocabulary():
    assert len(TOKENIZER) == TOKENIZER.vocab_size == len(TOKENIZER.get_vocab()) == 259
    assert (TOKENIZER.bos_token_id, TOKENIZER.eos_token_id, TOKENIZER.pad_token_id) == (BOS, EOS, PAD)
    assert TOKENIZER.all_special_ids == [BOS, EOS, PAD]
    assert TOKENIZER.get_added_vocab() == {"<|bos|>": BOS, "<|eos|>": EOS, "<|pad|>": PAD}
    for token, token_id in TOKENIZER.get_vocab().items():
        assert TOKENIZER.convert_tokens_to_ids(token) == token_id
        assert TOKENIZER.convert_ids_to_tokens(token_id) == token


@given(any_text)
def test_text_round_trips(text):
    ids = TOKENIZER(text).input_ids
    assert ids == list(text.encode())
    assert ids == TOKENIZER.encode(text) == TOKENIZER.encode_bytes(text)
    assert TOKENIZER.decode(ids) == text
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == text
    tokens = TOKENIZER.tokenize(text)
    assert TOKENIZER.convert_tokens_to_ids(tokens) == ids
    assert TOKENIZER.convert_tokens_to_string(tokens) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "\r\n\t\x7f",
        " leading and  double  spaces ",
        "don 't do n't .",
        "é🙂\u202e",
        "<|bos|>a<|pad|>",
    ],
)
def test_awkward_text_round_trips(text):
    ids = TOKENIZER(text).input_ids
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=True) == text
    assert max(ids, default=0) < 256


@given(st.binary())
def test_any_bytes_round_trip(data):
    assert TOKENIZER.decode_bytes(TOKENIZER.encode_bytes(data)) == data
    text = TOKENIZER.decode(list(data), errors="surrogateescape")
    assert TOKENIZER(text).input_ids == list(data)
    assert ByteTokenizer(errors="surrogateescape").decode(list(data)) == text
    assert TOKENIZER.decode(list(data)) == data.decode("utf-8", "replace")


@given(st.lists(st.integers(0, 258)))
def test_special_tokens_are_shown_or_skipped(ids):
    shown = {BOS: "<|bos|>", EOS: "<|eos|>", PAD: "<|pad|>"}
    expected = b"".join(shown[i].encode() if i in shown else bytes([i]) for i in ids)
    assert TOKENIZER.decode(ids) == expected.decode("utf-8", "replace")
    skipped = bytes(i for i in ids if i < 256)
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == skipped.decode("utf-8", "replace")
    assert TOKENIZER.decode_bytes(torch.tensor(ids, dtype=torch.int64)) == skipped


def test_special_token_text_is_text_and_special_tokens_are_ids():
    assert TOKENIZER("<|eos|>").input_ids == list(b"<|eos|>")
    assert TOKENIZER.convert_tokens_to_ids(["a", "<|eos|>"]) == [97, EOS]
    assert TOKENIZER.decode(EOS) == "<|eos|>"


def test_batches_are_padded_on_the_left():
    batch = TOKENIZER(["abc", "", "é"], padding=True, return_tensors="pt")
    assert batch.input_ids.tolist() == [[97, 98, 99], [PAD] * 3, [PAD, 0xC3, 0xA9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 0], [0, 1, 1]]
    assert TOKENIZER.batch_decode(batch.input_ids, skip_special_tokens=True) == ["abc", "", "é"]
    right = TOKENIZER(["abc", "d"], padding="max_length", max_length=4, padding_side="right")
    assert right.input_ids == [[97, 98, 99, PAD], [100, PAD, PAD, PAD]]


def test_truncation_pairs_and_prepared_ids():
    assert TOKENIZER("abcdef", truncation=True, max_length=2).input_ids == [97, 98]
    assert TOKENIZER("ab", "c").input_ids == [97, 98, 99]
    assert TOKENIZER(["ab", "c"], ["d", "e"]).input_ids == [[97, 98, 100], [99, 101]]
    assert TOKENIZER([1, 2, EOS], add_special_tokens=False).input_ids == [1, 2, EOS]
    assert TOKENIZER([["ab", "c"]], is_split_into_words=True).input_ids == [[97, 98, 99]]


def test_bos_is_prepended_when_asked_for():
    tokenizer = ByteTokenizer(prepend_bos=True)
    encoded = tokenizer("ab", return_special_tokens_mask=True)
    assert encoded.input_ids == [BOS, 97, 98]
    assert encoded.special_tokens_mask == [1, 0, 0]
    assert tokenizer("ab", add_special_tokens=False).input_ids == [97, 98]
    assert tokenizer("", return_tensors="pt").input_ids.tolist() == [[BOS]]
    assert tokenizer.decode([BOS, 97], skip_special_tokens=True) == "a"


@pytest.mark.parametrize("settings", [{}, {"errors": "surrogateescape", "prepend_bos": True}])
def test_saving_and_copying_keep_everything(tmp_path, settings):
    tokenizer = ByteTokenizer(padding_side="right", model_max_length=77, **settings)
    tokenizer.save_pretrained(tmp_path)
    for copy in (ByteTokenizer.from_pretrained(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert (copy.errors, copy.prepend_bos) == (tokenizer.errors, tokenizer.prepend_bos)
        assert (copy.padding_side, copy.model_max_length) == ("right", 77)
        assert copy.get_vocab() == tokenizer.get_vocab()
        assert copy("é<|bos|>").input_ids == tokenizer("é<|bos|>").input_ids


def test_a_tampered_vocabulary_on_disk_changes_nothing(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    stored = json.loads(path.read_text()) | {"split_special_tokens": False}
    stored["added_tokens_decoder"]["97"] = stored["added_tokens_decoder"].pop("257") | {"content": "a"}
    path.write_text(json.dumps(stored))
    loaded = ByteTokenizer.from_pretrained(tmp_path)
    assert (loaded.eos_token_id, len(loaded), loaded.decode([97])) == (EOS, 259, "a")
    path.write_text(json.dumps(stored | {"eos_token": "a"}))
    with pytest.raises(UserError, match=r"eos_token: expected one of .*<\|eos\|>.*, got 'a'"):
        ByteTokenizer.from_pretrained(tmp_path)


def test_which_special_token_pads_is_kept(tmp_path):
    tokenizer = ByteTokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path)
    for found in (ByteTokenizer.from_pretrained(tmp_path), ByteTokenizer(pad_token=EOS_TOKEN), tokenizer):
        assert (found.pad_token_id, found.eos_token_id, found.bos_token_id, len(found)) == (
            EOS,
            EOS,
            BOS,
            259,
        )
        assert found(["ab", "c"], padding=True).input_ids == [[97, 98], [EOS, 99]]
    with pytest.raises(UserError, match=r"pad_token: expected one of .*, got '\[PAD\]'"):
        ByteTokenizer(pad_token="[PAD]")


def test_special_tokens_are_looked_for_where_one_call_asks_for_it():
    text = "a<|eos|>"
    assert TOKENIZER(text).input_ids == [*text.encode()]
    assert TOKENIZER(text, split_special_tokens=False).input_ids == [97, EOS]
    assert TOKENIZER(text).input_ids == [*text.encode()]
    looking = ByteTokenizer()
    looking.split_special_tokens = False
    assert looking(text).input_ids == [97, EOS]
    assert looking(text, split_special_tokens=True).input_ids == [*text.encode()]


def test_a_megabyte():
    text = "abcdé\n🙂" * 100_000
    ids = TOKENIZER(text).input_ids
    assert len(ids) == 1_100_000
    assert TOKENIZER.decode([BOS, *ids, EOS], skip_special_tokens=True) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: TOKENIZER("ab\ud800"), r"character 2 is the lone surrogate U\+D800"),
        (lambda: TOKENIZER.decode([97, 259]), "259"),
        (lambda: TOKENIZER.decode([-1]), "-1"),
        (lambda: TOKENIZER.convert_ids_to_tokens(300), "token id 300"),
        (lambda: TOKENIZER.convert_tokens_to_ids("ab"), "token 'ab'"),
        (lambda: TOKENIZER.convert_tokens_to_ids(["a", "\u0100"]), "token 'Ā'"),
        (lambda: TOKENIZER.add_tokens(["new"]), "fixed at 259"),
        (lambda: TOKENIZER.add_special_tokens({"pad_token": AddedToken("[PAD]")}), "fixed at 259"),
        (lambda: ByteTokenizer(errors="guess"), "errors: expected one of replace"),
    ],
)
def test_mistakes_raise(call, message):
    with pytest.raises(UserError, match=message):
        call()
    assert TOKENIZER.pad_token_id == PAD


class Other:
    def __repr__(self):
        return "two\nlines"


NO_TEXTS = (3, 1.5, True, b"ab", bytearray(b"ab"), {}, {"a": 1}, torch.tensor([1]), Other())
NO_LISTS = ([None], ["a", None], ["a", b"b"], ["a", 3], [["a"], 3], [1.5], [1, "a"], [300], [-1], [[3, 259]])
NO_IDS = (
    None,
    1.5,
    "a",
    "97",
    {},
    [1.5],
    ["a"],
    [None],
    [300],
    [-1],
    -1,
    300,
    [10**30],
    [True],
    True,
    Other(),
)
NO_IDS += (torch.tensor([1.5]), torch.tensor([300]), torch.tensor([True]), float("nan"), [[None]])


def refused(call, name):
    with pytest.raises(UserError, match=rf"^{name}\b") as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["text", "text_pair", "text_target", "text_pair_target"])
def test_what_is_no_text_is_named_in_a_call(name):
    for wrong in (*NO_TEXTS, *NO_LISTS):
        refused(lambda wrong=wrong: TOKENIZER(**({"text": "a"} | {name: wrong})), name)
    refused(lambda: TOKENIZER(None), "text")
    refused(lambda: TOKENIZER([]), "text")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("max_length", ("x", -1, 1.5, True)),
        ("stride", ("x", -1)),
        ("pad_to_multiple_of", ("x", -1)),
        ("padding", ("nosuch", 3)),
        ("truncation", ("nosuch", 3)),
        ("padding_side", ("up", 3)),
    ],
)
def test_a_wrong_option_of_a_call_is_named(name, values):
    for wrong in values:
        refused(lambda wrong=wrong: TOKENIZER("a", **{name: wrong}), name)


@pytest.mark.parametrize("function", ["encode", "encode_bytes", "tokenize"])
def test_what_is_no_text_is_named_when_encoded(function):
    for wrong in (None, *NO_TEXTS):
        if not (function == "encode_bytes" and wrong == b"ab"):
            refused(lambda wrong=wrong: getattr(TOKENIZER, function)(wrong), "text|data")


@pytest.mark.parametrize("function", ["decode", "decode_bytes", "convert_ids_to_tokens", "batch_decode"])
def test_what_are_no_ids_is_named(function):
    for wrong in NO_IDS:
        refused(lambda wrong=wrong: getattr(TOKENIZER, function)(wrong), "token_ids|ids|sequences|token id")


@pytest.mark.parametrize("function", ["convert_tokens_to_ids", "convert_tokens_to_string"])
def test_what_are_no_tokens_is_named(function):
    for wrong in (None, 3, [3], ["ab"], [None], b"a", {}):
        refused(lambda wrong=wrong: getattr(TOKENIZER, function)(wrong), "tokens?")


def test_wrong_settings_are_named():
    settings = {
        "errors": (3, None, "x", ["replace"]),
        "prepend_bos": ("yes", None, 1),
        "model_max_length": ("x", -1, True, float("nan")),
        "padding_side": ("up", 3),
        "truncation_side": ("up", None),
    }
    for name, values in settings.items():
        for wrong in values:
            refused(lambda name=name, wrong=wrong: ByteTokenizer(**{name: wrong}), name)
    for wrong in (3, "x", ["replace"]):
        refused(lambda wrong=wrong: TOKENIZER.decode([97], errors=wrong), "errors")
    for wrong in (None, 3, "x", ["new"]):
        refused(lambda wrong=wrong: TOKENIZER.add_special_tokens(wrong), "special_tokens_dict")
    refused(lambda: TOKENIZER("a", return_offsets_mapping=True), "return_offsets_mapping")
    refused(lambda: TOKENIZER([], is_split_into_words=True), "text")
    for wrong in ({"pad_token": 3}, {"pad_token": None}):
        refused(lambda wrong=wrong: TOKENIZER.add_special_tokens(wrong), "token")
