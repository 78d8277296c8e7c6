"""The plain model that an adapted one stands for, in float or rounded again to the grid of its quantizer."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import nn

from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError, TrainingError
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.seeding import generator
from peftlab.nn.surgery import fuse_slices
from peftlab.quantizers.contract import Quantizer
from peftlab.tasks.contract import Preprocessing

_REMEDY = "export the adapter itself (without --merged)"


def merged_model(adapter: Adapter, backbone: Backbone, module: nn.Module) -> nn.Module:
    """The library's own model, in float, with the update folded in; ``module`` (as loaded for inference) is consumed.

    Raises:
        OptionError: the adapter cannot be merged.
    """
    import peft

    if not adapter.mergeable:
        raise OptionError(f"{adapter.name!r} cannot be merged", where="--merged", remedy=_REMEDY)
    if not isinstance(module, peft.PeftModel):
        return restore_conv1d(make_dense(adapter.merge(Adapted(module=module, backbone=backbone, adapter=adapter))))
    fuse_slices(make_dense(module))  # slices that were quantized one by one become the library's layer again
    try:
        whole: nn.Module = module.merge_and_unload(safe_merge=True)  # pyright: ignore
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise OptionError(f"PEFT cannot merge it: {error}", where="--merged", remedy=_REMEDY) from error
    return restore_conv1d(make_dense(whole))


def quantized_model(quantizer: Quantizer, backbone: Backbone, whole: nn.Module) -> nn.Module:
    """The merged model, its weights stored by the quantizer; ``whole`` is consumed."""
    quantizer.convert(dataclasses.replace(backbone, module=whole))
    return whole


def merge(
    adapter: Adapter, quantizer: Quantizer, backbone: Backbone, module: nn.Module, preprocessing: Preprocessing, requantize: bool
) -> tuple[nn.Module, dict[str, float]]:
    """The merged model to export, and what each way of merging loses: max |merged - unmerged| / max |unmerged|.

    The loss is that of logits of two random images. ``float``: the weights that the layers multiply with, plus the update.
    ``requantized`` (where there is a quantizer): those rounded to the quantizer's grid again, which is lossy; written in float.

    Raises:
        OptionError: the adapter cannot be merged, or there is no quantizer to round with.
        TrainingError: the float merge does not give the adapter's outputs.
    """
    if requantize and not quantizer.quantizes:
        raise OptionError("the run had no quantizer to round with", where="--requantize", remedy="leave --requantize out")
    size = preprocessing.image_size
    pixels = torch.randn(2, 3, size, size, generator=generator(0, "export"))

    def logits(model: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return backbone.outputs(model, {"pixel_values": pixels})

    before = logits(module)
    whole = merged_model(adapter, backbone, module)

    def loss(model: nn.Module) -> float:
        return float((logits(model) - before).abs().max() / before.abs().max().clamp_min(1e-12))

    losses, allowed = {"float": loss(whole)}, max(adapter.merge_tolerance, quantizer.merge_tolerance)
    if not losses["float"] <= allowed:
        what = f"merged and unmerged outputs differ by {losses['float']:.2g} (at most {allowed:.2g})"
        raise TrainingError(what, where=backbone.name, remedy=_REMEDY)
    if quantizer.quantizes:
        rounded = quantized_model(quantizer, backbone, whole if requantize else copy.deepcopy(whole))
        losses["requantized"] = loss(rounded)
        whole = restore_conv1d(make_dense(rounded)) if requantize else whole
    return whole, losses
