"""`generate` against plain loops that recompute everything, and proof that it recomputes nothing itself."""

import pytest
import torch
from transformers import GenerationConfig

from unimatrix.data.tokenizer import BOS, EOS, PAD
from unimatrix.errors import UserError
from unimatrix.hf import ByteTokenizer, UniMatrixCache, stream

PROMPTS = ["a prompt", "longer than the other", "x"]
STEPS = 9


@pytest.fixture
def batch():
    return ByteTokenizer()(PROMPTS, padding=True, return_tensors="pt")


def rows_of(batch):
    return [
        ids[mask.bool()].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]


def plain_loop(language_model, rows, steps, choose, last_logits, eos=(EOS,)):
    """Each row grown by `steps` tokens, PAD after an EOS, everything recomputed at every step."""
    rows = [list(row) for row in rows]
    finished = [False] * len(rows)
    produced = [[] for _ in rows]
    for _ in range(steps):
        tokens = choose(last_logits(language_model, rows)).tolist()
        for i, token in enumerate(tokens):
            produced[i].append(PAD if finished[i] else token)
            finished[i] = finished[i] or token in eos
            rows[i].append(produced[i][-1])
        if all(finished):
            break
    return torch.tensor(produced)


def test_greedy_with_left_padding_equals_the_plain_loop(preset, make_model, batch, last_logits):
    model = make_model(preset)
    expected = plain_loop(
        model.language_model, rows_of(batch), STEPS, lambda logits: logits.argmax(-1), last_logits
    )
    for use_cache in (True, False):
        out = model.generate(**batch, max_new_tokens=STEPS, do_sample=False, use_cache=use_cache)
        assert torch.equal(out[:, batch.input_ids.shape[1] :], expected)


def test_greedy_stops_rows_at_end_of_sequence(preset, make_model, batch, last_logits):
    model = make_model(preset)
    eos = list(range(0, 259, 6))  # often enough that rows end at different steps
    expected = plain_loop(
        model.language_model, rows_of(batch), 30, lambda logits: logits.argmax(-1), last_logits, eos
    )
    out = model.generate(**batch, max_new_tokens=30, do_sample=False, eos_token_id=eos)
    assert torch.equal(out[:, batch.input_ids.shape[1] :], expected)
    assert (expected == PAD).any()


def test_sampling_equals_the_plain_loop(preset, make_model, batch, last_logits):
    model = make_model(preset)

    def choose(logits):
        return torch.multinomial((logits / 0.7).softmax(-1), 1)[:, 0]

    torch.manual_seed(3)
    expected = plain_loop(model.language_model, rows_of(batch), STEPS, choose, last_logits)
    for use_cache in (True, False):
        torch.manual_seed(3)
        out = model.generate(
            **batch, max_new_tokens=STEPS, do_sample=True, temperature=0.7, top_k=0, use_cache=use_cache
        )
        assert torch.equal(out[:, batch.input_ids.shape[1] :], expected)


def test_several_sequences_per_prompt_equal_the_plain_loop(preset, make_model, batch, last_logits):
    model = make_model(preset)
    rows = [row for row in rows_of(batch) for _ in range(3)]
    torch.manual_seed(5)
    expected = plain_loop(
        model.language_model, rows, STEPS, lambda x: torch.multinomial(x.softmax(-1), 1)[:, 0], last_logits
    )
    torch.manual_seed(5)
    out = model.generate(**batch, max_new_tokens=STEPS, do_sample=True, top_k=0, num_return_sequences=3)
    assert torch.equal(out[:, batch.input_ids.shape[1] :], expected)
    assert len({tuple(row) for row in expected[:3].tolist()}) > 1


def plain_beam_search(language_model, row, steps, num_beams, last_logits):
    """The num_beams likeliest continuations found by keeping that many at every step, best first."""
    beams = [(0.0, list(row))]
    for _ in range(steps):
        log_probs = last_logits(language_model, [tokens for _, tokens in beams]).log_softmax(-1)
        grown = [
            (score + log_probs[i, token].item(), [*tokens, token])
            for i, (score, tokens) in enumerate(beams)
            for token in log_probs[i].topk(num_beams).indices.tolist()
        ]
        beams = sorted(grown, key=lambda beam: -beam[0])[:num_beams]
    return [tokens[len(row) :] for _, tokens in beams]


def test_beam_search_equals_a_plain_beam_search(preset, make_model, batch, last_logits):
    model = make_model(preset)
    model.generation_config.eos_token_id = (
        None  # every beam runs to the end, so that the reference stays small
    )
    expected = [
        beam
        for row in rows_of(batch)
        for beam in plain_beam_search(model.language_model, row, STEPS, 4, last_logits)[:2]
    ]
    out = model.generate(**batch, max_new_tokens=STEPS, num_beams=4, num_return_sequences=2, do_sample=False)
    assert out[:, batch.input_ids.shape[1] :].tolist() == expected
    greedy = model.generate(**batch, max_new_tokens=STEPS, do_sample=False)
    assert not torch.equal(out[::2], greedy)  # else no beam ever overtook another


def test_beam_search_with_ends_equals_itself_without_the_state(preset, make_model, batch):
    model = make_model(preset)
    settings = {
        "max_new_tokens": 20,
        "num_beams": 4,
        "num_return_sequences": 4,
        "do_sample": False,
        "eos_token_id": list(range(0, 259, 20)),
    }
    with_state = model.generate(**batch, **settings)
    without = model.generate(**batch, **settings, use_cache=False)
    assert torch.equal(with_state, without)


def test_each_token_is_fed_once(preset, make_model, batch, count_fed):
    model = make_model(preset)
    model.generation_config.eos_token_id = None
    length = batch.input_ids.shape[1]
    shapes = count_fed(model.language_model)
    model.generate(**batch, max_new_tokens=STEPS, do_sample=False)
    assert shapes == [(3, length)] + [(3, 1)] * (STEPS - 1)
    shapes.clear()
    model.generate(**batch, max_new_tokens=STEPS, num_beams=2, do_sample=False)
    assert shapes == [(6, length)] + [(6, 1)] * (STEPS - 1)
    shapes.clear()
    model.generate(**batch, max_new_tokens=3, do_sample=False, use_cache=False)
    assert shapes == [(3, length), (3, length + 1), (3, length + 2)]


def test_padding_becomes_the_mask_at_prefill_and_nothing_is_masked_later(make_model, batch):
    model = make_model("unimatrix-core")
    masks = []
    model.language_model.register_forward_pre_hook(
        lambda _, args, kwargs: masks.append(kwargs["mask"]), with_kwargs=True
    )
    model.generate(**batch, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert torch.equal(masks[0], batch.attention_mask.bool())
    assert [mask.tolist() for mask in masks[1:]] == [[[True]] * 3] * 2


def test_prefill_in_chunks_equals_prefill_at_once(preset, make_model, batch, count_fed):
    model = make_model(preset)
    expected = model.generate(**batch, max_new_tokens=STEPS, do_sample=False)
    shapes = count_fed(model.language_model)
    out = model.generate(**batch, max_new_tokens=STEPS, do_sample=False, prefill_chunk_size=8)
    assert torch.equal(out, expected)
    assert shapes[:4] == [(3, 8), (3, 8), (3, 5), (3, 1)]


def test_a_conversation_goes_on_from_its_state(preset, make_model, count_fed):
    model = make_model(preset)
    first = torch.tensor([list(b"question")])
    cache = UniMatrixCache()
    settings = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    answer = model.generate(first, cache=cache, **settings)
    assert cache.get_seq_length() == 8 + 4  # the last token has not been fed
    follow_up = torch.cat([answer, torch.tensor([list(b" and?")])], dim=1)
    expected = model.generate(follow_up, **settings)
    shapes = count_fed(model.language_model)
    assert torch.equal(model.generate(follow_up, cache=cache, **settings), expected)
    assert shapes == [(1, 6)] + [(1, 1)] * 4


def test_an_empty_prompt_is_bos(preset, make_model):
    model, tokenizer = make_model(preset), ByteTokenizer()
    settings = {"max_new_tokens": STEPS, "do_sample": False}
    expected = model.generate(torch.tensor([[BOS]]), **settings)
    assert torch.equal(model.generate(**settings), expected)
    for empty in ({"input_ids": torch.zeros(1, 0, dtype=torch.int64)}, tokenizer("", return_tensors="pt")):
        assert torch.equal(model.generate(**empty, **settings), expected)
    two = tokenizer(["", ""], padding=True, return_tensors="pt")
    assert torch.equal(model.generate(**two, **settings), expected.expand(2, -1))
    assert "".join(stream(model, tokenizer, "", max_new_tokens=STEPS, temperature=0)) == tokenizer.decode(
        expected[0], skip_special_tokens=True
    )


def test_an_empty_prompt_beside_others_is_bos(preset, make_model):
    model, tokenizer = make_model(preset), ByteTokenizer()
    settings = {"max_new_tokens": STEPS, "do_sample": False, "eos_token_id": None}
    batch = tokenizer(["", "abc"], padding=True, return_tensors="pt")
    before = {name: x.clone() for name, x in batch.items()}
    out = model.generate(**batch, **settings)
    assert all(torch.equal(batch[name], x) for name, x in before.items())
    assert out[0].tolist()[:3] == [PAD, PAD, BOS]
    assert torch.equal(out[:1, 2:], model.generate(torch.tensor([[BOS]]), **settings))
    assert torch.equal(out[1:], model.generate(torch.tensor([list(b"abc")]), **settings))


def test_nothing_to_start_from_is_refused(make_model):
    model, padding = make_model("unimatrix-core"), torch.tensor([[PAD, PAD], [1, 2]])
    mask, none = torch.tensor([[0, 0], [1, 1]]), torch.zeros(1, 0, dtype=torch.int64)
    embeds = {"inputs_embeds": torch.zeros(2, 2, 16), "attention_mask": mask}
    for given in (embeds, {"input_ids": padding}):
        with pytest.raises(UserError, match=r"expected a token or more in every row, got .* in row 0"):
            model.generate(**given, max_new_tokens=2)
    model.generation_config.bos_token_id = None
    for given in ({"input_ids": none}, {"input_ids": padding, "attention_mask": mask}, {}):
        with pytest.raises(UserError, match=r"^input_ids: expected .* no bos_token_id"):
            model.generate(**given, max_new_tokens=2)


def test_minus_one_is_no_token(make_model, recwarn):
    """It is transformers' word for a text that ends nowhere."""
    model, ids = make_model("unimatrix-core"), torch.tensor([[1, 2], [3, 4]])
    settings = {"max_new_tokens": 6, "do_sample": False}
    expected = model.generate(ids, eos_token_id=None, **settings)
    assert expected.shape == (2, 8)
    for eos in (-1, [-1]):
        assert torch.equal(model.generate(ids, eos_token_id=eos, pad_token_id=-1, **settings), expected)
    drafted = {"eos_token_id": -1, "assistant_model": model, **settings}
    assert torch.equal(model.generate(ids[:1], **drafted), expected[:1])
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = -1
    assert torch.equal(model.generate(ids, **settings), expected)
    with pytest.raises(UserError, match=r"^eos_token_id: expected .*, or -1 for none, got -2"):
        model.generate(ids, eos_token_id=-2)


@pytest.mark.parametrize(
    ("name", "wrong"), [("temperature", "x"), ("top_p", 5), ("eos_token_id", {}), ("num_beams", 0)]
)
def test_wrong_settings_are_named_wherever_they_stand(make_model, name, wrong):
    model, ids = make_model("unimatrix-core"), torch.tensor([[1, 2]])
    with pytest.raises(UserError, match=f"^{name}: expected"):
        model.generate(ids, max_new_tokens=2, **{name: wrong})
    settings = GenerationConfig(max_new_tokens=2)
    setattr(settings, name, wrong)
    with pytest.raises(UserError, match=f"^generation_config: {name}: expected"):
        model.generate(ids, generation_config=settings)
    setattr(model.generation_config, name, wrong)
    with pytest.raises(UserError, match=f"^generation_config: {name}: expected"):
        model.generate(ids, max_new_tokens=2)
    with pytest.raises(UserError, match=r"^generation_config: expected a GenerationConfig, got 3"):
        model.generate(ids, 3)


def test_generating_past_the_positions_raises_and_without_positions_does_not(make_model):
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(ValueError, match="max_positions = 8"):
        make_model("unimatrix-core", max_positions=8).generate(
            ids, max_new_tokens=10, do_sample=False, eos_token_id=None
        )
    out = make_model("unimatrix-core", max_positions=None).generate(
        ids, max_new_tokens=150, do_sample=False, eos_token_id=None
    )
    assert out.shape == (1, 153)


GREEDY = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": None}


def test_rows_that_end_with_padding_are_refused(make_model):
    """Their last logits mean nothing. The text would go on from them."""
    model = make_model("unimatrix-core")
    batch = ByteTokenizer()(PROMPTS, padding=True, padding_side="right", return_tensors="pt")
    with pytest.raises(
        UserError, match=r"^attention_mask: expected padding on the left .*, got row 0 that ends"
    ):
        model.generate(**batch, **GREEDY)
    with pytest.raises(UserError, match=r"^input_ids: expected padding on the left .*, got row 0 that ends"):
        model.generate(batch.input_ids, pad_token_id=PAD, **GREEDY)
    model(**batch)  # nothing is chosen from these


@pytest.mark.parametrize("ahead", [0, 2])
def test_in_chunks_too_a_prompt_that_the_state_has_read_whole_is_refused(make_model, ahead):
    model = make_model("unimatrix-core")
    ids = torch.tensor([list(b"a prompt of some length")])
    cache = model(ids).cache
    got = "as many" if ahead == 0 else f"{ahead} fewer"
    with pytest.raises(UserError, match=f"^input_ids: expected at least one token more than .*, got {got}$"):
        model.generate(ids[:, : ids.shape[1] - ahead], cache=cache, prefill_chunk_size=8, **GREEDY)
    longer = torch.cat([ids, ids[:, :11]], dim=1)
    expected = model.generate(longer, **GREEDY)
    assert torch.equal(model.generate(longer, cache=cache, prefill_chunk_size=4, **GREEDY), expected)


def test_what_would_feed_again_what_the_state_has_read_is_refused(make_model):
    model = make_model("unimatrix-core")
    ids = torch.tensor([list(b"again and again and again")])
    cache = model(ids[:, :9]).cache
    with pytest.raises(
        UserError, match=r"^cache: expected an empty one beside prompt_lookup_num_tokens or .* 9 t"
    ):
        model.generate(ids, cache=cache, prompt_lookup_num_tokens=3, **GREEDY)
    with pytest.raises(UserError, match=r"^cache: expected an empty one .*, got one that has read 9 tokens$"):
        model.generate(ids, past_key_values=cache, assistant_model=make_model("unimatrix-core"), **GREEDY)
    with pytest.raises(
        UserError, match=r"^use_cache: expected True with a cache that has read 9 tokens, got F"
    ):
        model.generate(ids, cache=cache, use_cache=False, **GREEDY)
    assert cache.get_seq_length() == 9
    assert torch.equal(model.generate(ids, cache=cache, **GREEDY), model.generate(ids, **GREEDY))


def test_stop_strings_that_a_draft_may_go_past_are_refused(make_model):
    ids = torch.tensor([list(b"again and again and again")])
    with pytest.raises(
        UserError, match=r"^stop_strings: expected none beside prompt_lookup_num_tokens or .* 'g'"
    ):
        make_model("unimatrix-core").generate(
            ids, prompt_lookup_num_tokens=3, stop_strings="g", tokenizer=ByteTokenizer(), **GREEDY
        )


def test_a_conversation_whose_mask_knows_of_other_tokens_than_the_state_is_refused(make_model):
    """A row that ends first reads padding as text for as long as the others go on."""
    model = make_model("unimatrix-core")
    ids, cache = torch.tensor([list(b"one"), list(b"two")]), UniMatrixCache()
    answer = model.generate(ids, cache=cache, **GREEDY)
    answer[0, 4:] = PAD
    longer = torch.cat([answer, ids], dim=1)
    for mask in ({}, {"attention_mask": (longer != PAD).long()}):
        with pytest.raises(
            UserError, match=r"^attention_mask: expected 5 tokens among the first 5 of row 0, .* 4;"
        ):
            model.generate(longer, cache=cache, pad_token_id=PAD, **mask, **GREEDY)
    read = torch.ones_like(longer)
    assert model.generate(longer, cache=cache, attention_mask=read, **GREEDY).shape == (2, 12)


def test_a_mask_that_numbers_documents_is_refused(make_model):
    model, ids = make_model("unimatrix-core"), torch.tensor([list(b"four")])
    for mask, got in (([1, 1, 2, 2], "2"), ([1, 1, -1, 1], "-1")):
        with pytest.raises(UserError, match=f"^attention_mask: expected 1 or True at tokens, .* got {got}$"):
            model(ids, attention_mask=torch.tensor([mask]))


def test_a_cache_is_there_however_little_it_has_read():
    assert UniMatrixCache()
