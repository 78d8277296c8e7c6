"""The optimizer, and its state as plain tensors."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch
from torch import nn

from peftlab.study.schema import Train


def make_optimizer(
    trainable: Mapping[str, nn.Parameter], train: Train, device: torch.device, vectors: Collection[str] = ()
) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019); weight decay on matrices only, not on biases, norms and other vectors.

    A factor of an update is a matrix at rank 1 as at rank 2, and so are the singular values of ``svd``, [r, 1]: as in AdaLoRA's
    official code, which leaves out biases and LayerNorm only. Uses torch's fused kernel where it exists (CPU, CUDA): one pass
    over the parameters, the same update.

    Args:
        vectors: names of tensors that are vectors though they have more than one dimension (``Adapted.vectors``).
    """
    decayed = [p for name, p in trainable.items() if p.dim() >= 2 and name not in vectors]
    others = [p for name, p in trainable.items() if p.dim() < 2 or name in vectors]
    groups = [{"params": decayed, "weight_decay": train.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        fused=device.type in ("cpu", "cuda"),
    )


def decay_changed(vectors: Collection[str], before: Collection[str], train: Train, step: int) -> list[str]:
    """A note for a run that goes on after ``step``, where another version of peftlab took other tensors for vectors."""
    odd = {*vectors} ^ {*before}
    if not odd or not train.weight_decay:
        return []
    return [f"weight decay changed after step {step}, of {len(odd)} tensors, e.g. {min(odd)}"]


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """``<parameter>/<state>`` -> tensor. ``names``: id of a parameter -> its name."""
    found: dict[str, torch.Tensor] = {}
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            found[f"{names[id(parameter)]}/{key}"] = value if torch.is_tensor(value) else torch.tensor(value)
    return found


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, torch.Tensor]
) -> None:
    """Inverse of :func:`optimizer_tensors`, bit for bit. The tensors become the optimizer's own."""
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, entry = key.rpartition("/")
        parameter = parameters[name]
        # `step` lives where the kernel wants it (with the parameter when fused)
        optimizer.state[parameter][entry] = value.to(parameter.device)


def tensor_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in tensors.values())


def clip(parameters: Iterable[nn.Parameter], limit: float | None) -> float:
    """Clip the global gradient norm to ``limit``; returns the norm before. One that is not finite would spoil every entry."""
    held = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in held if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None and norm.isfinite():
        torch.nn.utils.clip_grads_with_norm_(held, limit, norm)
    return float(norm)
