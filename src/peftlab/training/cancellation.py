"""How much of the quantization error the trained updates took back.

E = W - Q(W) of a layer, dW its update (nn/weight_error.py has the bound, docs/theory.md the derivation).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.nn.quantized import dense_weight, quantized_layers
from peftlab.nn.surgery import slice_fused
from peftlab.nn.weight_error import WeightError, bound_of

LARGEST = 2048  #: no bound for matrices whose smaller side is larger: its eigenvalues would take seconds a layer


@torch.no_grad()
def cancellation(adapted: Adapted, plain: Backbone) -> dict[str, Any]:
    """Of every adapted quantized layer, and of all together (weighted by ||E||^2). JSON-ready.

    cosine: <E, dW> / (||E|| ||dW||). cancelled: 1 - ||E - dW||^2 / ||E||^2, below zero where dW does more than undo. aligned:
    cosine^2, what dW would cancel at its best length. bound: the largest share that any update of its rank, constant in
    groups if it is, could; aligned <= bound always. None where it is not known (:func:`bound_of`, :data:`LARGEST`), and
    then there is none of all together.

    Args:
        plain: the same backbone in float, on the CPU; consumed.
    """
    slice_fused(plain.module, adapted.sites)
    layers = {_plain_name(name): layer for name, layer in quantized_layers(adapted.module).items()}
    group = adapted.adapter.shared_inputs
    sites = {}
    for name, rank, update in adapted.adapter.updates(adapted):
        if name in layers:
            found = _compare(dense_weight(plain.module.get_submodule(name)), layers[name].dequantize(), update, group)
            if found is not None:
                shares = found.pop("bounds")
                sites[name] = {**found, "rank": rank, "bound": bound_of(shares, rank)}
    whole = sum(site["error_norm"] ** 2 for site in sites.values())
    together = {
        key: sum(site[key] * site["error_norm"] ** 2 for site in sites.values()) / whole
        for key in ("cancelled", "aligned", "bound")
        if sites and all(site[key] is not None for site in sites.values())
    }
    return {"sites": sites, **together}


def _compare(weight: torch.Tensor, restored: torch.Tensor, update: torch.Tensor, group: int | None) -> dict[str, Any] | None:
    """None where nothing was lost in quantization, or the update is not finite."""
    error = weight.detach().cpu().double() - restored.cpu().double()
    change = update.detach().cpu().double()
    norm, length, product = float(error.norm()), float(change.norm()), float((error * change).sum())
    if not norm or not math.isfinite(length):
        return None
    bounded = min(error.shape) <= LARGEST
    shares = WeightError.of(weight.cpu(), restored.cpu(), group or 1, bounds=bounded)
    cosine = product / (norm * length) if length else 0.0
    return {
        "error_norm": norm,
        "update_norm": length,
        "cosine": cosine,
        "cancelled": (2 * product - length**2) / norm**2,
        "aligned": cosine**2,
        "bounds": shares.unrestricted if group is None else shares.pooled,
    }


def _plain_name(name: str) -> str:
    """In the backbone, whatever an adapter wrapped around it."""
    return name.removeprefix("base_model.model.").removesuffix(".base_layer")
