"""What guesses are worth, in numbers written out: no constant here comes from the code."""

import torch
from tolerances import assert_close

from unimatrix.mixers import ContextVotes
from unimatrix.mixers.kept_text import log_odds
from unimatrix.mixers.suffix_automaton import SuffixRouting


def test_evidence_is_the_logit_of_hits_with_two_guesses_of_what_is_expected():
    counts = torch.tensor([[0, 0], [5, 3], [5, 0], [2, 2]])
    expected = torch.full((4,), 0.75, dtype=torch.float64).logit()
    # r = (hits + 2 * 0.75) / (times + 2): 1.5 of 2, 4.5 of 7, 1.5 of 7, 3.5 of 4
    by_hand = torch.tensor([1.5 / 0.5, 4.5 / 2.5, 1.5 / 5.5, 3.5 / 0.5], dtype=torch.float64).log()
    assert_close(log_odds(counts, expected), by_hand, "output")


@torch.no_grad()
def test_a_fresh_part_s_votes_of_contexts():
    part = ContextVotes(orders=(1, 2), continuations=2)
    assert_close(part.weights, torch.tensor([[0.6, 0.2]] * 2), "output")
    # of a token that followed 1 of 1, 1 of 2, 2 of 2: 0.65, 0.325, 0.825
    once, half, twice = 0.6190392084062236, -0.7308875085427924, 1.5505974124111666
    assert_close(part.expected, torch.tensor([[once, half, half, twice]] * 2), "output")
    votes, _ = part(torch.tensor([[4, 5, 4]]))
    assert votes.token[0, 2].tolist() == [5, -1, -1, -1]
    # nothing was counted yet: 0.6 + 0.2 * 0.6190392084
    assert abs(float(votes.added[0, 2, 0]) - 0.7238078417) < 1e-6


@torch.no_grad()
def test_a_fresh_part_s_vote_of_the_longest_match():
    part = SuffixRouting(7, 8, route=False, vote=True)
    assert part.mixture is not None
    assert_close(part.mixture.weights, torch.tensor([1.0, 0.9, 0.5]), "output")
    _, votes, _ = part(torch.tensor([[4, 5, 4]]))
    logits = torch.zeros(1, 3, 7)  # 1 / 7 each
    share = part.vote(logits, logits, votes).softmax(-1)[0, 2]
    # a match of one token is expected to be right 0.15 of the time:
    # 1 + 0.9 * logit 0.15 + 0.5 * logit 1 / 7 = 1 - 0.9 * 1.7346010554 - 0.5 * 1.7917594692 = -1.4570206845
    assert abs(float(share[5]) - 0.1889234) < 1e-6
