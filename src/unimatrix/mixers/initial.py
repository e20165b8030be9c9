"""How weights start: N(0, std) for matrices and embeddings, 0 for biases, the identity for norms."""

import torch
from torch import nn

from unimatrix.errors import UserError


@torch.no_grad()
def draw_weights(module: nn.Module, std: float) -> None:
    """Draw a module's weights and those below it, in their order, from torch's global generator.

    A part with weights of another kind says how they start in an `init_weights(std)` of its own.
    """
    own = getattr(module, "init_weights", None)
    if own is not None:
        own(std)
        return
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
        module.reset_parameters()
    elif names := [name for name, _ in module.named_parameters(recurse=False)]:
        # not drawn, they would be what lay in memory wherever a file lacks them
        raise UserError(
            f"{type(module).__name__}.{names[0]}: expected an init_weights(std) of the module, or of the part"
            " that it is in, that says how such weights start"
        )
    draw_children(module, std)


def draw_children(module: nn.Module, std: float) -> None:
    """`draw_weights` of all that a module consists of, but not of weights that it holds itself."""
    for child in module.children():
        draw_weights(child, std)
