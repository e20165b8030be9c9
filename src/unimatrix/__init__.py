"""UniMatrix: sequence models with an associative state.

    import torch, unimatrix
    model = unimatrix.build("unimatrix-core")
    logits, state = model(torch.tensor([[104, 101]]))
"""

from unimatrix.errors import UserError
from unimatrix.models import LanguageModel, ModelConfig, build, presets, state_bytes

__version__ = "0.1.0"

__all__ = ["LanguageModel", "ModelConfig", "UserError", "build", "presets", "state_bytes"]
