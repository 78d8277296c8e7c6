"""Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174), as the libraries offer it."""

from __future__ import annotations

from peftlab.adapters.contract import Adapted
from peftlab.nn.last_block import LastBlock


def enable_checkpointing(adapted: Adapted) -> None:
    """Recompute block activations in the backward pass instead of keeping them: less memory, and the same numbers.

    The last block is computed for every row then: what it is recomputed with comes after the call (nn/last_block.py). Dropout on
    its o, up or down then draws for rows that a run without this leaves out: other draws of the same distribution.
    """
    if isinstance(adapted.last, LastBlock):
        adapted.last = "it is computed again in the backward pass"
    module = adapted.backbone.module
    if hasattr(module, "set_grad_checkpointing"):  # timm
        module.set_grad_checkpointing(True)  # pyright: ignore
        return
    for name in ("activation_checkpointing_enable", "gradient_checkpointing_enable"):  # transformers, new name and old
        if hasattr(module, name):
            getattr(module, name)({"use_reentrant": False})
            return
