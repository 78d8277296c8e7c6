"""Linear layers whose weight is stored in few bits: what all of them have, and their way back to float.

Shape legend: weights are [d_out, d_in] throughout, GPT-2's transposed Conv1D included.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn


class QuantizedLinear(nn.Linear):
    """y = dequantize() x + bias, with a frozen weight that is not there as a matrix.

    An ``nn.Linear``, as bitsandbytes' layers are, so that roles, slices and PEFT take it for what it stands for; but only
    ``bias`` is a float parameter. ``weight`` must be there too (libraries look at it for its device) and holds codes: whoever
    wants the matrix asks :func:`dense_weight`.

    ``transposed``: stands for a Conv1D (:func:`restore_conv1d`).
    """

    scheme: str
    transposed: bool = False

    @abstractmethod
    def dequantize(self) -> torch.Tensor:
        """The weight that the layer multiplies with, float32 [d_out, d_in]; a new tensor."""

    @abstractmethod
    def codes(self) -> torch.Tensor:
        """The integers that are stored, unpacked: [d_out, d_in]."""

    @abstractmethod
    def stored(self) -> Sequence[torch.Tensor]:
        """Every tensor that is kept for the weight: codes, scales, zero points, tables. Not the bias."""

    def stored_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self.stored())

    @property
    def W_q(self) -> torch.Tensor:
        """The codes. PEFT's DoRA asks a layer that has this name for ``dequantize()`` instead of taking ``weight``."""
        return self.stored()[0]


class _Planned(torch.autograd.Function):
    """The product with a matrix that is there only while it is used: again in the backward pass, as real kernels do."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes: torch.Tensor, bias: torch.Tensor | None, layer: PlannedLinear) -> torch.Tensor:
        ctx.save_for_backward(codes, x if layer.keeps_input else None)
        ctx.shape = (layer.out_features, layer.in_features)
        ctx.has_bias = bias is not None
        return F.linear(x, x.new_empty(ctx.shape), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        d_bias = gradient.flatten(0, -2).sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        d_x = gradient @ gradient.new_empty(ctx.shape) if ctx.needs_input_grad[0] else None
        return d_x, None, d_bias, None


class PlannedLinear(QuantizedLinear):
    """Stands for a quantized layer where only shapes count (planning): tensors of the right sizes, no codes, no kernels."""

    def __init__(self, layer: nn.Linear, scheme: str, tensors: Sequence[torch.Tensor], keeps_input: bool) -> None:
        """``keeps_input``: the real layer's backward pass holds its input."""
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.scheme, self.keeps_input, self.number = scheme, keeps_input, len(tensors)
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"stored_{i}", tensor)
        self.bias = layer.bias

    @property
    def weight(self) -> torch.Tensor:  # pyright: ignore
        return self.stored()[0]

    def stored(self) -> Sequence[torch.Tensor]:
        return [cast(torch.Tensor, self.get_buffer(f"stored_{i}")) for i in range(self.number)]

    def dequantize(self) -> torch.Tensor:
        return self.stored()[0].new_empty(self.out_features, self.in_features, dtype=torch.float32)

    def codes(self) -> torch.Tensor:
        return self.stored()[0].new_empty(self.out_features, self.in_features)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return _Planned.apply(input, self.stored()[0], self.bias, self)


def is_quantized(module: nn.Module) -> bool:
    """One of ours, or a layer of bitsandbytes that someone else put there."""
    weight = module._parameters.get("weight")
    return isinstance(module, QuantizedLinear) or type(weight).__name__ in ("Params4bit", "Int8Params")


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's transposed linear layer, of transformers."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def dense_weight(module: nn.Module) -> torch.Tensor:
    """The weight [d_out, d_in] that a linear layer multiplies with, whatever it is stored in.

    A quantized layer gives a new float32 tensor, a float one its own (detached).

    Raises:
        TypeError: no linear layer.
    """
    if isinstance(module, QuantizedLinear):
        return module.dequantize()
    if is_quantized(module):
        from peft.utils.integrations import dequantize_module_weight

        return dequantize_module_weight(module).detach().float()
    if isinstance(module, nn.Linear):
        return module.weight.detach()
    if is_conv1d(module):
        return cast(torch.Tensor, module.weight).detach().T
    raise TypeError(f"{type(module).__name__} is no linear layer")


def as_linear(layer: nn.Module) -> nn.Linear:
    """A Conv1D as the ``nn.Linear`` equal to it; an ``nn.Linear`` as it is."""
    if isinstance(layer, nn.Linear):
        return layer
    weight = dense_weight(layer)
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")  # draws no random numbers
    made.weight = nn.Parameter(weight.contiguous(), cast(nn.Parameter, layer.weight).requires_grad)
    made.bias = cast(nn.Parameter, layer.bias)
    return take_place(made, layer)


def dense_layer(layer: nn.Module) -> nn.Module:
    """The ``nn.Linear`` equal to a quantized layer, its bias shared; any other layer as it is."""
    if not is_quantized(layer):
        return layer
    weight = dense_weight(layer)
    made: Any = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
    made.weight = nn.Parameter(weight, False)
    made.bias = layer.bias
    made.transposed = getattr(layer, "transposed", False)
    return take_place(made, layer)


def take_place(new: nn.Module, old: nn.Module) -> Any:
    """Hooks, inserted children and the training mode of ``old``, handed to the layer that stands in its place."""
    for name, child in old._modules.items():
        new.add_module(name, cast(nn.Module, child))
    new._forward_hooks.update(old._forward_hooks)
    new._forward_pre_hooks.update(old._forward_pre_hooks)
    return new.train(old.training)


def make_dense(model: nn.Module) -> nn.Module:
    """Replace, in place, every quantized layer by the ``nn.Linear`` equal to it; returns the model.

    What stands for a Conv1D stays an ``nn.Linear``, whatever is merged into it, until :func:`restore_conv1d`.
    """
    for name, module in list(model.named_modules()):
        if name and is_quantized(module):
            model.set_submodule(name, dense_layer(module))
    return dense_layer(model)


def restore_conv1d(model: nn.Module) -> nn.Module:
    """Replace, in place, every float layer of :func:`make_dense` that stands for a Conv1D by one; returns the model."""
    for name, module in list(model.named_modules()):
        if name and _stands_for_conv1d(module):
            model.set_submodule(name, _conv1d(module))
    return _conv1d(model) if _stands_for_conv1d(model) else model


def _stands_for_conv1d(module: nn.Module) -> bool:
    return type(module) is nn.Linear and bool(getattr(module, "transposed", False))


def _conv1d(layer: Any) -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        made: Any = Conv1D(layer.out_features, layer.in_features)
    made.weight = nn.Parameter(layer.weight.detach().T.contiguous(), False)
    made.bias = layer.bias
    return take_place(made, layer)


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Name -> layer."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def stored_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of everything that quantized layers keep for their weights, in a parameter, a buffer or elsewhere."""
    for name, layer in quantized_layers(model).items():
        for i, tensor in enumerate(layer.stored()):
            yield f"{name}.stored.{i}", tensor


def plain_buffers(model: nn.Module, *, persistent: bool = False) -> dict[str, torch.Tensor]:
    """Name -> buffer of every layer that is not quantized; with ``persistent`` only those that a state dict keeps, no caches."""
    return {
        f"{name}.{own}".lstrip("."): buffer
        for name, part in model.named_modules()
        if not isinstance(part, QuantizedLinear)
        for own, buffer in part.named_buffers(recurse=False)
        if not (persistent and own in part._non_persistent_buffers_set)
    }


def parameter_sizes(model: nn.Module) -> dict[str, int]:
    """Parameter name -> number of parameters. The weight of a quantized layer counts as the matrix it stands for."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return sizes | {f"{name}.weight": layer.in_features * layer.out_features for name, layer in quantized_layers(model).items()}


def device_of(module: nn.Module) -> torch.device:
    """Where a layer lies; a quantized one may have no parameter at all."""
    for tensor in (*module.parameters(), *module.buffers()):
        return tensor.device
    return torch.device("cpu")
