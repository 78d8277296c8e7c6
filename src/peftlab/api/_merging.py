"""The plain model that an adapted one stands for: in float, with its codes kept, or rounded to its quantizer's grid again."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Literal

import torch
from torch import nn

from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.deployment.packed import packed_layers
from peftlab.errors import OptionError, TrainingError
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import dense_weight, make_dense, restore_conv1d
from peftlab.nn.seeding import generator
from peftlab.nn.surgery import fuse_slices
from peftlab.quantizers.contract import Quantizer
from peftlab.tasks.contract import Preprocessing, TextPreprocessing

_REMEDY = "export the adapter itself (without --merged, --packed and --onnx)"
#: what became of the weights: float, their codes kept, or rounded again
Way = Literal["float", "exact", "requantized"]


def packed_model(adapter: Adapter, backbone: Backbone, module: nn.Module) -> nn.Module | None:
    """The merged model with all the codes that ``module`` has; None where the update changes some of its packed weights.

    A layer stays packed where its zero points or offsets took up the update, or where there was none: its merged weight is what
    its codes stand for, to the bit.
    """
    import peft

    layers = packed_layers(module)
    if not layers or not adapter.mergeable or isinstance(module, peft.PeftModel):
        return None
    whole = adapter.merge(Adapted(module=module, backbone=backbone, adapter=adapter))
    found = dict(whole.named_modules())
    for name, layer in layers.items():
        merged = found.get(name)
        if merged is None or isinstance(merged, PackedLinear) or not torch.equal(dense_weight(merged), layer.dequantize()):
            continue
        kept = copy.copy(layer)
        kept._parameters = {"bias": merged._parameters["bias"]}
        whole.set_submodule(name, kept)
    return whole if _parameters(packed_layers(whole)) == _parameters(layers) else None


def _parameters(layers: dict[str, PackedLinear]) -> int:
    return sum(layer.in_features * layer.out_features for layer in layers.values())


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What kind of merged model is asked for."""

    requantize: bool = False  #: rounded to the quantizer's grid again
    packed: Literal["no", "if exact", "always"] = "no"  #: keep codes rather than float weights


def merge(
    adapter: Adapter,
    quantizer: Quantizer,
    backbone: Backbone,
    module: nn.Module,
    preprocessing: Preprocessing | TextPreprocessing,
    wanted: Wanted,
) -> tuple[nn.Module, Way, dict[str, float]]:
    """The merged model to export, how its weights came about, and what each way loses: max |merged - unmerged| / max |unmerged|.

    The loss is that of logits of two random inputs. ``float``: the weights that the layers multiply with, plus the update.
    ``requantized`` (where there is a quantizer): those rounded to the quantizer's grid again, which is lossy; in float, or packed
    where that is wanted. ``exact``: the codes as they are, the update in zero points or offsets.

    Raises:
        OptionError: the adapter cannot be merged, not exactly where that is asked for, or there is no quantizer to round with.
        TrainingError: the float or the exact merge does not give the adapter's outputs.
    """
    if wanted.requantize and not quantizer.quantizes:
        raise OptionError("the run had no quantizer to round with", where="--requantize", remedy="leave --requantize out")
    inputs = preprocessing.example(generator(0, "export"))

    def logits(model: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return backbone.outputs(model, inputs)

    before = logits(module)

    def loss(model: nn.Module, allowed: float = math.inf) -> float:
        found = float((logits(model) - before).abs().max() / before.abs().max().clamp_min(1e-12))
        if not found <= allowed:
            what = f"merged and unmerged outputs differ by {found:.2g} (at most {allowed:.2g})"
            raise TrainingError(what, where=backbone.name, remedy=_REMEDY)
        return found

    allowed = max(adapter.merge_tolerance, quantizer.merge_tolerance)
    if wanted.packed != "no" and not wanted.requantize:
        exact = packed_model(adapter, backbone, module)
        if exact is not None:
            return exact, "exact", {"exact": loss(exact, allowed)}
        if wanted.packed == "always":
            raise OptionError(
                f"the update of {adapter.name!r} does not fit into what {quantizer.name!r} stores",
                where="--packed",
                remedy="add --requantize to round the merged weights again (lossy), or export --merged",
            )
    whole = merged_model(adapter, backbone, module)
    losses = {"float": loss(whole, allowed)}
    if quantizer.quantizes:
        rounded = quantized_model(quantizer, backbone, whole if wanted.requantize else copy.deepcopy(whole))
        losses["requantized"] = loss(rounded)
        if wanted.requantize:
            keep = wanted.packed != "no" and packed_layers(rounded)
            return rounded if keep else restore_conv1d(make_dense(rounded)), "requantized", losses
    return whole, "float", losses
