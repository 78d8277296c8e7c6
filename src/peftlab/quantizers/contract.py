"""What a quantizer is: how the frozen weights are stored.

Shape legend: the weight of a linear layer is [d_out, d_in].
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import torch
from torch import nn

from peftlab.backbones.contract import Backbone
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.quantized import PlannedLinear, QuantizedLinear, as_linear, is_conv1d, is_quantized
from peftlab.nn.roles import Site, linear_shape
from peftlab.registry import Component
from peftlab.study.schema import Quantize, Train


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ConvertedLayer:
    """One layer, before and after."""

    scheme: str
    shape: tuple[int, int]  #: (d_out, d_in)
    float_bytes: int  #: of the weight as it was
    stored_bytes: int  #: of everything that is kept for it now
    error: float | None  #: ||W - Q(W)|| / ||W||, Frobenius; None where there are only shapes


@dataclasses.dataclass(frozen=True, slots=True)
class Conversion:
    """What a conversion did: module name -> what became of it, and the linear layers that stayed in float with the reason."""

    layers: Mapping[str, ConvertedLayer] = dataclasses.field(default_factory=dict)
    left: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def schemes(self) -> dict[str, str]:
        """Module name -> scheme."""
        return {name: layer.scheme for name, layer in self.layers.items()}


class OnWeights(Protocol):
    """What a hook has to know of the model that trains on the stored weights."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def sites(self) -> Sequence[Site]: ...

    def trainable(self) -> dict[str, nn.Parameter]: ...

    def rank_of(self, site: str) -> int: ...

    def update_norms(self) -> dict[str, float]: ...


class Quantizer(Component, ABC):
    """A configured quantizer.

    Every linear layer of the transformer's blocks is stored in the scheme, one by one; slices of fused layers that an adapter
    wants are taken apart before and count as layers of their own. Embeddings, norms, heads and linear layers outside the blocks
    (poolers, patch merging, language-model heads) stay in float.

    An adapter on quantized weights is merged into the *float* weights that the stored ones stand for (nn/quantized.make_dense);
    quantizing the result again is a second, lossy step.
    """

    quantizes: ClassVar[bool] = True

    @property
    def merge_tolerance(self) -> float:
        """Largest relative difference between outputs of the quantized model and of the float model with its rounded weights."""
        return 1e-4

    @property
    def gradient_tolerance(self) -> float:
        """Largest difference of the gradient of an input from that through the rounded weights, relative to its largest entry."""
        return 1e-4

    @property
    def requantized_share(self) -> float:
        """Largest share of codes that change when the dequantized weight is quantized again."""
        return 0.0

    @property
    def keeps_input(self) -> bool:
        """Whether a layer's backward pass holds its input."""
        return False

    @property
    def exact(self) -> Quantizer | None:
        """The same scheme with its products in float32; None where they are already, or the scheme says in what they are.

        What ``on_non_finite: higher-precision`` goes to. The stored weights stay those of the arm: other ones are another arm.
        """
        return None

    @abstractmethod
    def refuse(self, device: str) -> str | None:
        """Why this device cannot run the scheme; None if it can. Asked at plan time."""

    def check(self, train: Train, quantize: Quantize) -> None:
        """Asked when a run is planned; ``quantize`` says whether the frozen weights are stored before training or after it.

        Raises:
            OptionError: this training and the quantizer do not go together.
        """
        return

    @property
    @abstractmethod
    def scheme(self) -> str:
        """The scheme in a word, as records name it: ``nf4-double``."""

    @abstractmethod
    def tensors(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of every tensor that is kept for a weight, codes first: the formula of :meth:`stored_bytes`.

        Raises:
            OptionError: the scheme does not fit this shape.
        """

    @abstractmethod
    def quantize(self, layer: nn.Linear) -> QuantizedLinear:
        """The layer, stored in the scheme, on the device of its weight. Draws no random numbers; ``layer`` is consumed."""

    @abstractmethod
    def error_bound(self, weight: torch.Tensor) -> torch.Tensor:
        """Largest |W - Q(W)| of each element, [d_out, d_in]."""

    @property
    def shared_inputs(self) -> int | None:
        """How many neighbouring inputs of an output share one zero point or offset, into which an update that is constant over
        them can be merged without changing a code; None where there is no such thing."""
        return None

    def kept(self, d_out: int, d_in: int) -> Sequence[tuple[tuple[int, ...], torch.dtype]]:
        """Shape and type of what is held beside :meth:`tensors` while training (the float weight of a schedule)."""
        return ()

    def hook(self, adapted: OnWeights) -> TrainingHook | None:
        """What acts on the quantized weights during training; None where nothing does."""
        return None

    def stored_bytes(self, d_out: int, d_in: int) -> int:
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in self.tensors(d_out, d_in))

    def bits_per_parameter(self, d_out: int, d_in: int) -> float:
        """Everything included: codes, scales, tables."""
        return 8 * self.stored_bytes(d_out, d_in) / (d_out * d_in)

    def convert(self, backbone: Backbone) -> Conversion:
        """Store the frozen weights of ``backbone.module`` in place; on the meta device in layers that only have the sizes.

        Raises:
            OptionError: the scheme does not fit a layer.
            DidNothing: nothing was converted, or a layer that should be is still in float.
        """
        module, (wanted, left) = backbone.module, _linear_layers(backbone)
        layers = {}
        for name in wanted:
            old = module.get_submodule(name)
            d_in, d_out = linear_shape(old) or (0, 0)
            try:
                sizes = self.tensors(d_out, d_in)
            except OptionError as error:
                raise OptionError(f"{name} [{d_out}, {d_in}]: {error.what}", where="quantizer", remedy=error.remedy) from error
            layer = as_linear(old)
            weight, transposed = layer.weight.detach(), is_conv1d(old)
            if weight.is_meta:
                made = [torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in sizes]
                new: QuantizedLinear = PlannedLinear(layer, self.scheme, made, self.keeps_input)
                for i, (shape, dtype) in enumerate(self.kept(d_out, d_in)):
                    new.register_buffer(f"kept_{i}", torch.empty(shape, dtype=dtype, device="meta"), persistent=False)
                error = None
            else:
                new = self.quantize(layer)
                norm = torch.linalg.vector_norm(weight)
                error = float(torch.linalg.vector_norm(weight - new.dequantize()) / norm) if norm else 0.0
            new.transposed = transposed
            new.train(old.training)
            module.set_submodule(name, new)
            layers[name] = ConvertedLayer(
                scheme=self.scheme,
                shape=(d_out, d_in),
                float_bytes=weight.nbytes,
                stored_bytes=new.stored_bytes(),
                error=error,
            )
        self._verify(module, layers)
        return Conversion(layers, left)

    def _verify(self, module: nn.Module, layers: Mapping[str, ConvertedLayer]) -> None:
        floats = [name for name in layers if not is_quantized(module.get_submodule(name))]
        if floats or not layers:
            raise DidNothing(
                f"{len(floats)} layers are still in float" if layers else "this backbone has no linear layer to quantize",
                where=floats[0] if floats else "quantizer",
                remedy="report this; name the backbone",
            )


def _linear_layers(backbone: Backbone) -> tuple[list[str], dict[str, str]]:
    """The linear layers of the blocks, and of the others why they stay in float."""
    inside = {site.name for site in backbone.roles.sites if site.block is not None}
    outside = {site.name for site in backbone.roles.sites if site.block is None}
    precise = tuple(getattr(backbone.module, "_keep_in_fp32_modules", None) or ())  # transformers: T5's wo looks at weight.dtype
    wanted, left = [], {}
    for name, module in backbone.module.named_modules():
        if linear_shape(module) is None or is_quantized(module):
            continue
        if backbone.in_head(name + "."):
            left[name] = "head"
        elif name in outside:
            left[name] = "outside the blocks"
        elif name not in inside:
            left[name] = "its weight is read, not called"
        elif type(module) is not nn.Linear and not is_conv1d(module):
            left[name] = f"a {type(module).__name__}"
        elif set(name.split(".")) & set(precise):
            left[name] = "the library keeps it in float32"
        else:
            wanted.append(name)
    return wanted, left
