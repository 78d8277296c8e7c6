"""What a group-wise quantizer does during training: rho, update scaling, and the balance of update and quantization error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import nn

from peftlab.nn.groups import BITS
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.packed import PackedLinear
from peftlab.nn.weight_error import bound_of
from peftlab.quantizers.contract import OnWeights

_LINES = 50  #: entries of the history


@dataclasses.dataclass(frozen=True, slots=True)
class Ramp:
    """rho(t): 0 up to step ``first``, 1 from step ``last`` on, ``shape`` of the way between them."""

    first: float
    last: float
    shape: Callable[[float], float]

    def __call__(self, step: int) -> float:
        if step >= self.last:
            return 1.0
        return self.shape((step - self.first) / (self.last - self.first)) if step > self.first else 0.0


class Scheduled(Protocol):
    """What the hook asks of its quantizer."""

    @property
    def scale_updates(self) -> bool: ...

    def ramp(self, total: int) -> Ramp: ...

    def spec(self) -> dict[str, Any]: ...


class QuantizationHook(TrainingHook):
    """Sets rho before each step, releases the float weights once rho = 1, and keeps the history.

    Scaling updates means p <- p_before + (p_after - p_before)/(1 + rho e_l) for the trained tensors of layer l: AdamW's step is
    linear in the learning rate, so that is a learning rate of its own. (Scaled gradients would do nothing: AdamW divides by
    their size.) It ends before an allocator acts on the step: a triplet that is masked stays masked, and importance is that of
    the weights there are.

    Balance of a layer: ||dW|| / ||W - Q(W)||, its update against what quantization did to it.

    Usage of codes, whenever the schedule enters another phase (rho 0, between, 1) and after the last step: per layer the entropy
    H = -sum p ln p / ln 2 of how often each code occurs, in bits (at most the bits of a code), and the share of codes in use.

    Cancellable of a layer: the share of ||W - Q(W)||^2 that an update of the rank that training began with could cancel, any one
    and one that is constant in groups; None where the rank is above those of which it is kept (nn/weight_error.py).
    """

    def __init__(self, quantizer: Scheduled, adapted: OnWeights) -> None:
        self.name = "quantization"
        self.quantizer, self.adapted = quantizer, adapted
        self.layers = packed_layers(adapted.module)
        self.changes_base = any(layer.full is not None for layer in self.layers.values())
        self.history: list[dict[str, Any]] = []
        self.usage: list[dict[str, Any]] = []
        self.resident = sum(layer.full.nbytes for layer in self.layers.values() if layer.full is not None)
        self.before: dict[str, list[tuple[nn.Parameter, torch.Tensor]]] = {}

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self.ramp, self.every = self.quantizer.ramp(total_steps), max(1, total_steps // _LINES)
        self.last = total_steps - 1
        #: the first step at rho = 1
        self.first_full = next((step for step in range(total_steps) if self.ramp(step) == 1.0), 0)
        if not total_steps:  # the schedule is at its end: quantization alone is seen
            self.before_step(0)

    def before_step(self, step: int) -> None:
        self.rho = self.ramp(step)
        for layer in self.layers.values():
            layer.share = self.rho
            if self.rho == 1.0 and layer.full is not None:
                layer.release()
        if not self.usage or _phase(self.usage[-1]["rho"]) != _phase(self.rho):
            self._count(step)

    def after_backward(self, step: int) -> None:
        if self.quantizer.scale_updates:
            self.before = {name: [(p, p.detach().clone()) for p in parameters] for name, parameters in self._trained().items()}

    @torch.no_grad()
    def after_update(self, step: int) -> None:
        for name, pairs in self.before.items():
            for parameter, old in pairs:
                parameter.copy_(torch.lerp(old, parameter, self.factor(name)))
        self.before = {}

    def after_step(self, step: int, updated: bool = True) -> None:
        if step % self.every == 0 or step == self.last:
            self.history.append({"step": step, "rho": self.rho, "balance": self.balance()})
        if step == self.last:
            self._count(step)

    def _count(self, step: int) -> None:
        """Note how codes are used in ``step``."""
        counts = {name: code_counts(layer) for name, layer in self.layers.items()}
        entropy = {name: entropy_bits(found) for name, found in counts.items()}
        used = {name: float((found > 0).double().mean()) for name, found in counts.items()}
        self.usage.append({"step": step, "rho": self.rho, "entropy_bits": entropy, "used": used})

    def factor(self, name: str) -> float:
        """1/(1 + rho e) of a layer."""
        error = self.layers[name].error
        return 1.0 / (1.0 + self.rho * error.relative) if error is not None else 1.0

    def balance(self) -> dict[str, float]:
        """Layer -> ||dW|| / ||W - Q(W)||, for adapted layers that quantization changed."""
        found = {}
        for name, norm in self.adapted.update_norms().items():
            error = self.layers[name].error if name in self.layers else None
            if error is not None and error.error:
                found[name] = norm / error.error
        return found

    def _trained(self) -> dict[str, list[nn.Parameter]]:
        """Layer -> the trained tensors that sit on it."""
        found: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.adapted.trainable().items():
            plain = f".{name}"
            owner = next((layer for layer in self.layers if f".{layer}." in plain), None)
            if owner is not None:
                found.setdefault(owner, []).append(parameter)
        return found

    def state(self) -> dict[str, Any]:
        return {"history": self.history, "usage": self.usage}

    def load_state(self, state: dict[str, Any]) -> None:
        self.history, self.usage = list(state.get("history", [])), list(state.get("usage", []))

    def report(self) -> dict[str, Any]:
        sites = {site.name for site in self.adapted.sites}
        content = {
            "quantizer": self.quantizer.spec(),
            "float_weights": {
                "resident_until_step": self.first_full,
                "bytes": self.resident,
                "note": "no memory was saved while they were resident" if self.resident else "never resident",
            },
            "layers": {name: self._describe(name, layer, name in sites) for name, layer in self.layers.items()},
            "history": self.history,
            "codes": self.usage,
        }
        return {"quantization_history.json": content}

    def _describe(self, name: str, layer: PackedLinear, adapted: bool) -> dict[str, Any]:
        error = layer.error
        found: dict[str, Any] = {"scheme": layer.scheme, "stored_bytes": layer.stored_bytes(), "adapted": adapted}
        found["code_counts"] = code_counts(layer).tolist()
        if error is None:
            return found
        found |= {"weight_norm": error.weight, "error_norm": error.error, "relative_error": error.relative}
        rank = self.adapted.rank_of(name) if adapted else 0
        if rank and error.unrestricted:
            shares = {"unrestricted": error.unrestricted, "pooled": error.pooled}
            found["cancellable"] = {"rank": rank} | {form: bound_of(kept, rank) for form, kept in shares.items()}
        return found


def _phase(rho: float) -> int:
    return 0 if rho == 0 else 2 if rho == 1 else 1


def code_counts(layer: PackedLinear) -> torch.Tensor:
    """How often each code occurs, int64 [codes]."""
    return torch.bincount(layer.codes().flatten().int(), minlength=2 ** BITS[layer.kind]).cpu()


def entropy_bits(counts: torch.Tensor) -> float:
    """Of the shares of codes: 0 where one code is all there is."""
    return float(torch.special.entr(counts.double() / counts.sum()).sum() / math.log(2))


def packed_layers(module: nn.Module) -> Mapping[str, PackedLinear]:
    """Name in the backbone -> layer, whatever an adapter wrapped around it."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".base_layer"): layer
        for name, layer in module.named_modules()
        if isinstance(layer, PackedLinear)
    }
