"""Version numbers of the ops: one is raised by hand when the same inputs come to give other numbers.

A change of rounding raises none. Parts name the ops that their numbers come from (`PartConfig.ops`), and with
them the results of a run (unimatrix.lab.identity).
"""

VERSIONS = {
    "context_continuations": 1,
    "gated_product": 1,
    "gated_scan": 1,
    "m2rnn": 1,
    "matrix_state": 1,
    "short_convolution": 1,
    "signed_scan": 1,
    "slot_memory": 1,
    "suffix_automaton": 1,
    "surprise_store": 2,
    "token_store": 1,
    "triple_latent": 1,
}
