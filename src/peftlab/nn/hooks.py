"""The seam between the training loop and everything that acts during training.

The loop knows no method by name. Whoever wants to act (an allocator, a quantization schedule, a probe) gives it a hook.
Order within one optimizer step: ``before_step`` - forward/backward of every micro-batch, with ``penalty`` added to each loss
- ``after_backward`` (gradients summed, not yet clipped) - clip - optimizer - ``after_update`` - ``after_step`` (gradients still
there) - zero gradients.

``after_update`` is for those who change how far the optimizer went, ``after_step`` for those who change the model (mask triplets,
move ranks). All hooks have had the first before any has the second, so that no mask is half undone, and no tensor another shape,
by the time a step is scaled, in whatever order the hooks stand.

In float16 the optimizer leaves out steps whose gradients overflow (training/updates.py). They are steps of the run: what goes by
a schedule goes on, and ``after_step`` comes. They are no updates: ``after_update`` does not come, and what belongs to one (a
proximal step, a score of gradients) is not done.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class TrainingHook:
    """Base with every method a no-op. ``state`` must hold everything needed to continue bit for bit."""

    name: str = "hook"
    changes_base: bool = False  #: frozen weights act differently from step to step

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        """Called once, before the first step and before any state is loaded."""

    def before_step(self, step: int) -> None:
        """``step`` counts optimizer steps from 0."""

    def penalty(self) -> torch.Tensor | None:
        """A scalar added to the training loss (never to an evaluation)."""
        return None

    def after_backward(self, step: int) -> None: ...

    def after_update(self, step: int) -> None:
        """Weights lie where the optimizer put them: the place to scale its step. Shapes stay, nothing is masked."""

    def after_step(self, step: int, updated: bool = True) -> None:
        """The step is done: the place to act on the model and to note what it has become.

        ``updated``: whether the optimizer changed the weights; if not, gradients are not those of a loss that is finite.
        """

    def non_finite(self, step: int) -> None:
        """Called when the loss or a gradient of ``step`` is not finite and training ends; the gradients are still there."""

    def finish(self) -> None:
        """Called after the last step, with the weights in place that are tested. The place to raise DidNothing."""

    def close(self) -> None:
        """Called when training ends, however it ends: the place to leave contexts that are still open."""

    def state(self) -> dict[str, Any]:
        """Tensors and JSON values to be kept in a checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`. Called before weights and optimizer state come back, so that shapes can follow first."""

    def report(self) -> dict[str, Any]:
        """File name -> JSON-ready content, written into the run folder at the end."""
        return {}

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        """File name -> name -> array, written compressed into the run folder at the end, where a study asks for it."""
        return {}


class HookChain(TrainingHook):
    """Many hooks as one, each in its turn, and the wall-clock seconds each of them took.

    On a GPU these are the seconds of launching; what a penalty costs in the backward pass is not among them.
    """

    name = "chain"

    def __init__(self, hooks: Sequence[TrainingHook]) -> None:
        self.hooks = hooks
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def _each(self, event: str, *arguments: Any) -> None:
        for hook in self.hooks:
            begin = time.perf_counter()
            getattr(hook, event)(*arguments)
            self.seconds[hook.name] += time.perf_counter() - begin

    def start(self, total_steps: int, optimizer: torch.optim.Optimizer) -> None:
        self._each("start", total_steps, optimizer)

    def before_step(self, step: int) -> None:
        self._each("before_step", step)

    def penalty(self) -> torch.Tensor | None:
        """The sum of all penalties."""
        total = None
        for hook in self.hooks:
            begin = time.perf_counter()
            found = hook.penalty()
            if found is not None:
                total = found if total is None else total + found
            self.seconds[hook.name] += time.perf_counter() - begin
        return total

    def after_backward(self, step: int) -> None:
        self._each("after_backward", step)

    def after_step(self, step: int, updated: bool = True) -> None:
        """Both events behind the optimizer: every hook's ``after_update``, if there was one, then every hook's ``after_step``."""
        if updated:
            self._each("after_update", step)
        self._each("after_step", step, updated)

    def non_finite(self, step: int) -> None:
        self._each("non_finite", step)

    def finish(self) -> None:
        self._each("finish")

    def close(self) -> None:
        self._each("close")

    def state(self) -> dict[str, Any]:
        return {"seconds": dict(self.seconds), **{hook.name: hook.state() for hook in self.hooks}}

    def load_state(self, state: dict[str, Any]) -> None:
        self.seconds.update(state.get("seconds", {}))
        for hook in self.hooks:
            hook.load_state(state.get(hook.name) or {})

    def report(self) -> dict[str, Any]:
        return self._gathered("report")

    def arrays(self) -> dict[str, dict[str, np.ndarray]]:
        return self._gathered("arrays")

    def _gathered(self, what: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for hook in self.hooks:
            begin = time.perf_counter()
            found |= getattr(hook, what)()
            self.seconds[hook.name] += time.perf_counter() - begin
        return found
