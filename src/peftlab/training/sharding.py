"""Frozen weights divided among the processes of a run, for a backbone that does not fit one device.

Each process keeps a part of the frozen weights of every block and gathers the rest when the block computes, forward and backward
(``fully_shard`` of torch; Zhao et al. 2023, arXiv:2304.11277). What trains is left out of it and stays whole everywhere, as it is
without sharding: it is small, and allocators may change its shape. Layers outside the blocks (embeddings, heads) stay whole too.
The numbers are the same to the bit.
"""

from __future__ import annotations

import torch

from peftlab.adapters.contract import Adapted
from peftlab.errors import TrainingError
from peftlab.nn.quantized import stored_tensors
from peftlab.nn.tensors import own
from peftlab.training.team import Team


def shard_frozen(adapted: Adapted, device: torch.device, team: Team) -> dict[str, float]:
    """Divide the frozen weights of all blocks among the processes, in place; every one has to call it.

    Returns:
        ``share`` of the model's parameters that this process keeps, ``blocks`` that were divided.

    Raises:
        TrainingError: there are no frozen weights in blocks, or they are quantized.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    module, trainable = adapted.module, set(adapted.trainable().values())
    whole = sum(parameter.numel() for parameter in module.parameters())
    blocks = [adapted.backbone.module.get_submodule(name) for name in adapted.backbone.roles.names]
    blocks = [block for block in blocks if any(parameter not in trainable for parameter in block.parameters())]
    if next(iter(stored_tensors(module)), None) is not None:
        raise TrainingError("quantized weights cannot be sharded", where="--shard", remedy="leave it out: they are small already")
    if not blocks:
        remedy = "leave it out; what trains is whole in every process"
        raise TrainingError("no frozen weights in blocks to shard", where="--shard", remedy=remedy)
    team.together = True
    mesh = init_device_mesh(device.type, (team.size,))
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=trainable & set(block.parameters()))
    module.to(device)
    kept = sum(own(parameter).numel() for parameter in module.parameters())
    return {"share": kept / whole, "blocks": len(blocks)}
