"""What quantization did to a model: error of every weight, of its outputs, of the gradient that goes through it; bytes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.memory import MB
from peftlab.nn.modes import same_modes
from peftlab.nn.quantized import parameter_sizes, stored_tensors
from peftlab.quantizers.contract import Conversion, Quantizer
from peftlab.tasks.contract import PreparedTask
from peftlab.training.cancellation import cancellation
from peftlab.training.resident import resident_mb

FILE = "quantization_analysis.json"
BATCHES, EXAMPLES = 2, 4  #: of training data, not augmented
Batches = Sequence[Mapping[str, torch.Tensor]]


def first_batches(task: PreparedTask, indices: np.ndarray, device: torch.device | str) -> Batches:
    """A few small batches to compare a quantized model with the float one on."""
    chosen = [indices[i : i + EXAMPLES] for i in range(0, min(len(indices), BATCHES * EXAMPLES), EXAMPLES)]
    return [{key: value.to(device) for key, value in task.batch(part).items()} for part in chosen]


def examine(
    backbone: Backbone,
    quantizer: Quantizer,
    convert: Callable[[Backbone], Conversion],
    task: PreparedTask,
    batches: Batches,
) -> dict[str, Any]:
    """Convert the backbone, in place, and say what that did. JSON-ready.

    outputs: ||y_q - y|| / ||y|| over the logits of all batches. gradient: the same, and the cosine, for the gradient of the loss
    at the model's float input (images), or at the output of its input embedding. Float and quantized model are never there at
    the same time: of the float one only outputs and gradients are kept.
    """
    plain = [_look(backbone, task, batch) for batch in batches]
    before, device = sum(p.nbytes for p in backbone.module.parameters()), next(backbone.module.parameters()).device
    process = {"before": in_use_mb(device)}
    conversion = convert(backbone)
    process["after"] = in_use_mb(device)
    quantized = [_look(backbone, task, batch) for batch in batches]
    after = sum(p.nbytes for p in backbone.module.parameters() if p.is_floating_point())
    after += sum(tensor.untyped_storage().nbytes() for _, tensor in stored_tensors(backbone.module))
    layers = conversion.layers
    numbers = {name: math.prod(layer.shape) for name, layer in layers.items()}
    floats, stored = sum(layer.float_bytes for layer in layers.values()), sum(layer.stored_bytes for layer in layers.values())
    outputs, gradients, losses = (
        (torch.cat([look[i] for look in plain]), torch.cat([look[i] for look in quantized])) for i in range(3)
    )
    return {
        "quantizer": quantizer.spec(),
        "scheme": quantizer.scheme,
        "layers": {
            name: {
                "scheme": layer.scheme,
                "shape": list(layer.shape),
                "float_bytes": layer.float_bytes,
                "stored_bytes": layer.stored_bytes,
                "bits_per_parameter": 8 * layer.stored_bytes / numbers[name],
                "weight_error": layer.error,
            }
            for name, layer in layers.items()
        },
        "left_in_float": dict(conversion.left),
        "converted": {
            "parameters": sum(numbers.values()),
            "float_bytes": floats,
            "stored_bytes": stored,
            "bits_per_parameter": 8 * stored / sum(numbers.values()),
            "times_smaller_than_float": floats / stored,
        },
        "model": {
            "parameters": sum(parameter_sizes(backbone.module).values()),
            "float_bytes": before,
            "stored_bytes": after,
            "times_smaller_than_float": before / after,
        },
        "process_mb": process,
        "examples": sum(len(next(iter(batch.values()))) for batch in batches),
        "outputs": {"relative_error": _relative(*outputs)},
        "gradient": {"relative_error": _relative(*gradients), "cosine": _cosine(*gradients)},
        "loss": {"float": float(losses[0].mean()), "quantized": float(losses[1].mean())},
    }


def in_use_mb(device: torch.device) -> float:
    """Resident size of this process, freed blocks given back first; on an accelerator the memory allocated there."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MB
    if device.type == "mps":
        return torch.mps.current_allocated_memory() / MB
    with contextlib.suppress(AttributeError, OSError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
    return resident_mb()


class QuantizationReport(TrainingHook):
    """Carries the findings of :func:`examine` into the run's folder, and what training took back of the error."""

    name = "quantization-analysis"

    def __init__(self, found: dict[str, Any], adapted: Adapted, plain: Callable[[], Backbone]) -> None:
        """``plain`` loads the same backbone in float, on the CPU."""
        self.found, self.adapted, self.plain = found, adapted, plain

    def report(self) -> dict[str, Any]:
        return {FILE: {**self.found, "cancellation": cancellation(self.adapted, self.plain())}}


def _look(backbone: Backbone, task: PreparedTask, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Flat outputs, input gradient and loss of one batch, in evaluation mode."""
    module = backbone.module
    inputs = dict(task.inputs(batch))
    with same_modes(module), _input(module, inputs) as seen:
        module.eval()
        outputs = backbone.outputs(module, inputs)
        loss = task.loss(outputs, batch)
        (gradient,) = torch.autograd.grad(loss, [seen[0]])
    logits = [t.detach().flatten().float() for t in tree_leaves(outputs) if torch.is_tensor(t) and t.is_floating_point()]
    return torch.cat(logits).cpu(), gradient.flatten().float().cpu(), loss.detach().float().reshape(1).cpu()


@contextlib.contextmanager
def _input(module: nn.Module, inputs: dict[str, torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """The tensor where the gradient is looked at; ``inputs`` are changed to ask for it."""
    name = next((name for name, tensor in inputs.items() if tensor.is_floating_point()), None)
    if name is not None:
        inputs[name] = inputs[name].detach().requires_grad_()
        yield [inputs[name]]
        return
    seen: list[torch.Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[0]

    handle = module.get_input_embeddings().register_forward_hook(keep)  # pyright: ignore
    try:
        yield seen
    finally:
        handle.remove()


def _relative(reference: torch.Tensor, found: torch.Tensor) -> float | None:
    norm = torch.linalg.vector_norm(reference)
    return float(torch.linalg.vector_norm(found - reference) / norm) if norm else None


def _cosine(reference: torch.Tensor, found: torch.Tensor) -> float | None:
    norms = torch.linalg.vector_norm(reference) * torch.linalg.vector_norm(found)
    return float(reference @ found / norms) if norms else None
