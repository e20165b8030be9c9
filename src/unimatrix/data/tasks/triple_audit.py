"""What is known of the triple interaction without training anything: counted over all triples of values.

n values, three roles A, B, C; a share is in [0, 1].
"""

from dataclasses import dataclass, replace

import numpy as np

from unimatrix.data.tasks.triple_interaction import (
    TripleInteractionConfig,
    answers_over_domain,
    domain,
)


def guess_by_rule(config: TripleInteractionConfig) -> dict[str, float]:
    """How often one of the sequence's bound values, picked blindly, is the answer; by rule."""
    shares = {}
    for rule in config.rules:
        values, answers = domain(config, rule), answers_over_domain(config, rule)
        # three of the bindings are the queried tag's own, the others hold values drawn apart from the answer
        own = float((values == answers).sum(0).mean())
        others = config.num_bindings - len(values)
        elsewhere = float((answers < config.values_of(rule)).mean()) / config.values_of(rule)
        shares[rule] = (own + others * elsewhere) / config.num_bindings
    return shares


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What can be known of the answers when nothing says which rule is meant.

    num_triples: values in A, B, C that there are. num_ambiguous: those for which the rules disagree.
    accuracy: in [0, 1], the best that any predictor reaches when each rule is asked equally often.
    by_rule: that predictor's accuracy on each rule; where several answers are the best it takes each equally
    often.
    """

    num_triples: int
    num_ambiguous: int
    accuracy: float
    by_rule: dict[str, float]


def audit(config: TripleInteractionConfig) -> Audit:
    """The ceiling of the task without its task token, counted over all n^3 triples; nothing is trained.

    The predictor knows the table of lookup and reads the queried tag's values without error.
    """
    malformed = replace(config, task_token=False)
    answers = np.stack([answers_over_domain(malformed, rule) for rule in config.rules])  # [rules, n^3]
    agreeing = (answers[:, None] == answers).sum(1)  # [rules, n^3]: how many rules give this rule's answer
    most = agreeing.max(0)
    best = agreeing == most
    # an answer that so many rules share stands among the best ones so many times
    right = best / (best / most).sum(0)
    by_rule = {rule: float(share) for rule, share in zip(config.rules, right.mean(1), strict=True)}
    return Audit(
        num_triples=answers.shape[1],
        num_ambiguous=int((most < len(config.rules)).sum()),
        accuracy=float(most.mean() / len(config.rules)),
        by_rule=by_rule,
    )
