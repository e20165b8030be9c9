"""Hugging Face: the models under AutoConfig, AutoModelForCausalLM and AutoTokenizer, once this is imported.

    import unimatrix.hf
    model = AutoModelForCausalLM.from_pretrained("folder or hub name")

`load` gives model and tokenizer at once, with errors that a user can act on, and `stream` yields text as
it is generated; a `Reader` reads long texts, and keeps what it has read in a file.
"""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from unimatrix.hf.cache import UniMatrixCache
from unimatrix.hf.config import UniMatrixConfig
from unimatrix.hf.generation import load
from unimatrix.hf.modeling import UniMatrixForCausalLM, UniMatrixModel
from unimatrix.hf.reading import Reader, stream
from unimatrix.hf.saved_state import load_state, save_state
from unimatrix.hf.tokenizer import ByteTokenizer

AutoConfig.register(UniMatrixConfig.model_type, UniMatrixConfig, exist_ok=True)
AutoModel.register(UniMatrixConfig, UniMatrixModel, exist_ok=True)
AutoModelForCausalLM.register(UniMatrixConfig, UniMatrixForCausalLM, exist_ok=True)
AutoTokenizer.register(UniMatrixConfig, ByteTokenizer, exist_ok=True)
# by these names alone its Trainer knows whose labels it has to shift for label smoothing
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.setdefault(UniMatrixConfig.model_type, UniMatrixForCausalLM.__name__)

__all__ = [
    "ByteTokenizer",
    "Reader",
    "UniMatrixCache",
    "UniMatrixConfig",
    "UniMatrixForCausalLM",
    "UniMatrixModel",
    "load",
    "load_state",
    "save_state",
    "stream",
]
