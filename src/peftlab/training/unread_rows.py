"""Leaving out the rows of the last block that nobody reads (nn/last_block.py) gives the same outputs: tried, not believed."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from peftlab.adapters.contract import Adapted
from peftlab.nn.last_block import LastBlock
from peftlab.nn.modes import same_modes
from peftlab.training.noise import noised
from peftlab.training.passes import tensors_of

#: largest difference of outputs, in units of the largest, by the type they are computed in
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@torch.no_grad()
def try_last_block(adapted: Adapted, inputs: Mapping[str, torch.Tensor]) -> None:
    """Compute the last block as it is, from now on, where leaving rows out gives other outputs on these few examples.

    In evaluation mode, so that nothing is drawn, and with noise on what the adapter added, which may start without effect; mode
    and tensors are as before afterwards.
    """
    if not isinstance(adapted.last, LastBlock):
        return
    module = adapted.module
    added = [tensor for name, tensor in adapted.trainable().items() if name not in adapted.own_parameters]
    with same_modes(module), noised(added, seed=0):
        module.eval()
        whole = tensors_of(adapted.backbone.outputs(module, inputs))
        with adapted.reading():
            read = tensors_of(adapted.backbone.outputs(module, inputs))
    for one, other in zip(whole, read, strict=True):
        limit = TOLERANCE.get(one.dtype, 0.0) * float(one.abs().max())
        if one.shape != other.shape or not float((one - other).abs().max()) <= limit:
            adapted.last = "without the rows that nobody should read its outputs are others"
            return
