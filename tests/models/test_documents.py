"""Packed documents equal the documents read apart: logits, states, gradients, wherever they are cut."""

import itertools

import pytest
import torch
from outside_part import SurpriseConfig
from tolerances import assert_close
from torch.utils import _pytree as pytree
from trained_size import random_ids, trained_size

import unimatrix
from unimatrix import UserError
from unimatrix.mixers import AttentionConfig, SlotMemoryConfig, SurpriseStoreConfig
from unimatrix.models import presets
from unimatrix.models.documents import documents_apart, starts_from_cu_seqlens, starts_from_position_ids

B, T = 3, 50
IDS = random_ids(B, T, below=53)


def cuts(seed: int, *, share: float = 0.15) -> torch.Tensor:
    starts = torch.rand(B, T, generator=torch.Generator().manual_seed(seed)) < share
    starts[0, 0] = True
    starts[1] = False
    starts[1, 20:23] = True  # documents of one token
    return starts


STARTS = cuts(0)
MASK = torch.rand(B, T, generator=torch.Generator().manual_seed(9)) > 0.2
CASES = {name: {} for name in presets()} | {
    "custom": {
        "parts.memory": SlotMemoryConfig(num_slots=4, width=8),
        "parts.convolution": "convolution",
        "order": (0, 1, 0),
        "layers.1.mixer": AttentionConfig(num_heads=4, rotary_base=100.0),
        "layers.0.mixer.kernel_size": 3,
    },
    "m2rnn": {"layers.*.mixer": "m2rnn"},
    "lstm": {"layers.*.mixer": "lstm"},
    "votes": {"parts.match": "suffix_votes", "parts.contexts": "context_votes"},
    "surprise store": {"layers.0.store": SurpriseStoreConfig(budget=5, window=12)},
    "associative and triple": {"layers.*.mixer": "triple_latent", "layers.*.more": "associative"},
}


def model_of(case: str, **settings):
    if case in presets():
        return trained_size(case, **settings)
    torch.manual_seed(0)
    model = unimatrix.build("unimatrix-core", **CASES[case], **settings).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


def apart(model, starts, mask):
    """Logits [B, T, V] of documents read one by one, and the state behind the last one of each row."""
    logits, states = torch.zeros(B, T, 259), []
    for row in range(B):
        begins = [0, *starts[row, 1:].nonzero()[:, 0].add(1).tolist(), T]
        for begin, end in itertools.pairwise(begins):
            here = slice(begin, end)
            given = None if mask is None else mask[row : row + 1, here]
            logits[row, here], state = model(IDS[row : row + 1, here], mask=given)
        states.append(state)
    return logits, states


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_packed_documents_are_as_if_each_were_alone(case, masked):
    model = model_of(case)
    mask = MASK if masked else None
    counted = MASK if masked else torch.ones_like(MASK)
    expected, states = apart(model, STARTS, mask)
    got, state = model(IDS, mask=mask, starts=STARTS)
    assert_close(got[counted], expected[counted], "logits")
    # what comes next continues the last document alone
    more = random_ids(B, 4, below=53)
    after, _ = model(more, state)
    for row in range(B):
        alone, _ = model(more[row : row + 1], states[row])
        assert_close(after[row], alone[0], "logits")
    assert state.position.tolist() == [int(one.position) for one in states]


@pytest.mark.parametrize("case", CASES)
def test_pieces_may_cut_documents_anywhere(case):
    model = model_of(case)
    whole, last = model(IDS, mask=MASK, starts=STARTS)
    for edges in ([0, 1, 21, 22, 50], [0, 20, 50], [0, 49, 50]):
        pieces, state = [], None
        for begin, end in itertools.pairwise(edges):
            here = slice(begin, end)
            logits, state = model(IDS[:, here], state, mask=MASK[:, here], starts=STARTS[:, here])
            pieces.append(logits)
        assert_close(torch.cat(pieces, 1)[MASK], whole[MASK], "logits")
        assert torch.equal(state.position, last.position)


@pytest.mark.parametrize("case", CASES)
def test_a_start_forgets_the_state_that_is_given(case):
    model = model_of(case)
    _, state = model(IDS)
    starts = torch.zeros(B, 4, dtype=torch.bool)
    starts[:, 0] = True
    more = random_ids(B, 4, below=53)
    assert_close(model(more, state, starts=starts)[0], model(more)[0], "logits")


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_the_documents_apart(case):
    model = model_of(case).double().requires_grad_(True)
    weights = torch.randn(B, T, 259, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    weights = weights * MASK[..., None]
    logits, _ = model(IDS, mask=MASK, starts=STARTS)
    (logits * weights).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    rows = documents_apart(IDS, STARTS, MASK)
    logits, _ = model(rows.ids, mask=rows.mask)
    place = (rows.begin[:, None] + torch.arange(rows.ids.shape[1])).clamp_max(T - 1)
    (logits * weights[rows.row[:, None], place] * rows.mask[..., None]).sum().backward()
    for name, parameter in model.named_parameters():
        if name in found:
            assert_close(found[name], parameter.grad, "gradient")


def test_no_start_changes_nothing():
    model = model_of("unimatrix-core")
    none = torch.zeros(B, T, dtype=torch.bool)
    assert torch.equal(model(IDS, starts=none)[0], model(IDS)[0])


def test_positions_count_anew_and_no_document_may_be_too_long():
    model = trained_size("transformer", max_positions=16)
    starts = torch.zeros(B, T, dtype=torch.bool)
    starts[:, ::16] = True
    logits, state = model(IDS, starts=starts)
    assert_close(logits[:, 16:32], model(IDS[:, 16:32])[0], "logits")
    assert state.position.tolist() == [2, 2, 2]
    with pytest.raises(UserError, match="expected at most max_positions = 16 tokens, got 17"):
        model(IDS[:, :40], starts=torch.arange(40).expand(B, -1) % 17 == 0)


def test_the_state_behind_each_document():
    model = trained_size("unimatrix-sparse-pointer")
    rows = documents_apart(IDS, STARTS, MASK)
    _, state = model(rows.ids, mask=rows.mask)
    assert state.position.tolist() == rows.mask.sum(1).tolist()
    for number in (0, 3, len(rows.ids) - 1):
        real = rows.mask[number]
        if not real.any():
            continue
        _, alone = model(rows.ids[number : number + 1, real])
        for mine, other in zip(pytree.tree_leaves(state), pytree.tree_leaves(alone), strict=True):
            if mine is None:
                assert other is None
            elif mine.is_floating_point():
                assert_close(mine[number], other[0], "state")
            else:
                assert torch.equal(mine[number], other[0])


def test_starts_from_what_collators_give():
    starts = starts_from_cu_seqlens(torch.tensor([0, 3, 3, 4, 9], dtype=torch.int32), 9)
    assert starts[0].nonzero()[:, 0].tolist() == [0, 3, 4]
    positions = torch.tensor([[0, 1, 2, 0, 0, 1, 2, 3, 4]])
    assert torch.equal(starts_from_position_ids(positions), starts)
    padded, real = torch.tensor([[0, 1, 2, 0, 0]]), torch.tensor([[True, True, True, False, False]])
    assert starts_from_position_ids(padded, real).tolist() == [[True, False, False, False, False]]
    for wrong in (real[0], real.long(), padded):
        with pytest.raises(UserError, match=r"^mask: expected"):
            starts_from_position_ids(padded, wrong)
    for wrong in ([0, 3], [1, 9], [0, 5, 4, 9], [0, 3, 10], [9], [0.0, 9.0], "x"):
        with pytest.raises(UserError, match=r"^cu_seqlens: expected"):
            starts_from_cu_seqlens(wrong, 9)  # type: ignore[arg-type]
    for wrong in (None, torch.zeros(2), torch.zeros(2, 3)):
        with pytest.raises(UserError, match=r"^position_ids: expected"):
            starts_from_position_ids(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("starts", "message"),
    [
        (torch.zeros(B, T), "starts: expected documents' beginnings of dtype bool, got float32"),
        (torch.zeros(B, T - 1, dtype=torch.bool), "starts: expected shape"),
        ([True], "starts: expected a tensor of documents' beginnings"),
        (torch.zeros(B, T, dtype=torch.bool, device="meta"), "starts: expected it where the inputs are"),
    ],
)
def test_wrong_starts_are_named(starts, message):
    with pytest.raises(UserError, match=message):
        model_of("unimatrix-core")(IDS, starts=starts)


def test_a_part_with_a_state_that_knows_no_documents_is_refused():
    model = unimatrix.build("unimatrix-core", **{"layers.0.store": SurpriseConfig()})
    with pytest.raises(UserError, match=r"^starts: .* apart; layers\.0\.store \(surprise\) would read on"):
        model(IDS, starts=STARTS)


def test_every_part_with_a_state_of_our_own_keeps_documents_apart():
    size = unimatrix.build("unimatrix-core").config.size
    for kind, part in unimatrix.parts().items():
        if part.config.__module__.startswith("unimatrix.") and part.role in ("model", "mix", "feed"):
            keeps_a_state = part.config().build(size).state_layout() is not None
            assert part.config.documents == keeps_a_state, kind


@pytest.mark.parametrize(
    "case", ["unimatrix-core", "transformer-modern", "unimatrix-assoc", "custom", "surprise store"]
)
def test_documents_under_torch_compile(case):
    torch.compiler.reset()
    model = model_of(case, max_positions=None)
    with torch.no_grad():
        expected, _ = model(IDS, mask=MASK, starts=STARTS)
        got, _ = torch.compile(model, backend="aot_eager")(IDS, mask=MASK, starts=STARTS)
    assert_close(got[MASK], expected[MASK], "logits")
