"""Pure functions on tensors: the recurrences and memories, each with a reference and its fast forms."""

from unimatrix.ops import threads as threads  # from here on it sees a fork
from unimatrix.ops.backend import BACKENDS, Backend, BackendChoice, backends_of
from unimatrix.ops.context_continuations import context_continuations
from unimatrix.ops.gated_product import gated_product
from unimatrix.ops.gated_scan import gated_scan
from unimatrix.ops.m2rnn import m2rnn
from unimatrix.ops.matrix_state import matrix_state
from unimatrix.ops.short_convolution import short_convolution
from unimatrix.ops.signed_scan import signed_scan
from unimatrix.ops.slot_memory import SlotMemoryState, SlotReads, slot_memory
from unimatrix.ops.suffix_automaton import SuffixMatch, suffix_automaton
from unimatrix.ops.surprise_store import StoreReads, SurpriseStoreState, surprise_store
from unimatrix.ops.token_store import TokenStoreState
from unimatrix.ops.triple_latent import TripleLatentState, triple_latent

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendChoice",
    "SlotMemoryState",
    "SlotReads",
    "StoreReads",
    "SuffixMatch",
    "SurpriseStoreState",
    "TokenStoreState",
    "TripleLatentState",
    "backends_of",
    "context_continuations",
    "gated_product",
    "gated_scan",
    "m2rnn",
    "matrix_state",
    "short_convolution",
    "signed_scan",
    "slot_memory",
    "suffix_automaton",
    "surprise_store",
    "triple_latent",
]
