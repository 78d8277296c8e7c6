"""What a run does about the frozen prefix of its model: cut it or not, for a reason, and go on as it was begun.

``prefix.json`` of a run (execution/attempts.py) says it: ``used``, and ``why`` not, or ``cut``, ``blocks``, ``mb`` and, of every
file, the seconds that filling took and the run that did it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch

from peftlab.adapters.contract import Adapted
from peftlab.errors import RecordError
from peftlab.execution.attempts import Attempts
from peftlab.execution.fallback import Attempt, is_out_of_memory
from peftlab.execution.protocol import WorkerOptions
from peftlab.records.environment import cpu_model
from peftlab.records.record import RunConfig
from peftlab.records.run_folder import RunFolder
from peftlab.tasks.contract import PreparedTask, Splits
from peftlab.training.assemble import Ingredients
from peftlab.training.prefix import Uncut
from peftlab.training.prefix_store import LIMIT_MB, NoRoom, Rows, Store
from peftlab.training.prefix_task import Prefix, PrefixTask

FILE = "prefix.json"
_PACKAGES = ("torch", "transformers", "timm", "bitsandbytes", "tokenizers", "pillow", "numpy", "peftlab")


class FrozenPrefix:
    """Of one run. ``waiting`` is called while hidden states are computed, here or elsewhere; it may raise."""

    def __init__(self, config: RunConfig, folder: RunFolder, options: WorkerOptions, waiting: Callable[[], None]) -> None:
        self.config, self.attempts, self.options, self.waiting = config, Attempts(folder, FILE), options, waiting
        self.record: dict[str, Any] = {}
        self._attempt = ""
        self._prefix: Prefix | None = None

    def begin(
        self, attempt: Attempt, ingredients: Ingredients, task: PreparedTask, splits: Splits, adapted: Adapted
    ) -> tuple[Adapted, PreparedTask]:
        """The model and the task that are trained: cut, with hidden states for examples, or as they are.

        Raises:
            RecordError: the run was begun with hidden states, and they cannot be had now.
        """
        begun = self._begun(attempt.name)
        self.record, self._attempt = {}, attempt.name
        try:
            if self.options.processes > 1:
                raise Uncut("the run has several processes")
            if begun is None:
                self._check(ingredients, adapted)
            elif not begun["used"]:
                raise Uncut(begun["why"])
            prefix = self._cut(attempt, ingredients, task, splits, adapted)
            if begun is not None and (begun["cut"], begun["blocks"]) != (prefix.cut.name, prefix.cut.blocks):
                raise Uncut(f"it was cut at {begun['cut']}, and would be cut at {prefix.cut.name} now")
            if begun is None:
                prefix.store.check(prefix.size)
            self._filled(prefix, splits.train)
        except (Uncut, NoRoom) as reason:
            if begun is not None and begun["used"]:
                raise self._lost(reason) from reason
            return self._ordinary(str(reason), adapted, task)
        except RuntimeError as error:
            if begun is not None or not is_out_of_memory(error):
                raise
            return self._ordinary("memory ran out while hidden states were computed", adapted, task)
        self._prefix = prefix
        return prefix.adapted, PrefixTask(prefix)

    def _ordinary(self, why: str, adapted: Adapted, task: PreparedTask) -> tuple[Adapted, PreparedTask]:
        self._write({"attempt": self._attempt, "used": False, "why": why})
        return adapted, task

    def ready(self, examples: np.ndarray) -> None:
        """Have the hidden states of a split at hand, so that nobody's time counts their computation.

        Raises:
            RecordError: they cannot be had.
        """
        if self._prefix is not None:
            try:
                self._filled(self._prefix, examples)
            except (NoRoom, Uncut) as reason:
                raise self._lost(reason) from reason

    def release(self) -> None:
        """Close the files, and keep nothing of the model."""
        if self._prefix is not None:
            self._prefix.close()
            self._prefix = None

    @property
    def flags(self) -> list[str]:
        """What every table that shows times has to say."""
        if not self.record.get("used"):
            return []
        blocks = self.record["blocks"]
        what = "the frozen backbone" if self.record["cut"] == "head" else f"blocks 0-{blocks - 1}" if blocks > 1 else "block 0"
        return [f"time without {what}, computed once and shared"]

    def _begun(self, attempt: str) -> dict[str, Any] | None:
        """How this attempt was begun; None if it is new."""
        known = self.attempts.begun(attempt)
        return {"used": False, "why": "the run was begun without"} if known == {} else known

    def _check(self, ingredients: Ingredients, adapted: Adapted) -> None:
        """Raises Uncut for what speaks against it whatever the model is."""
        planned = self.config.predicted.get("prefix", {})
        if self.options.prefix_cache_mb <= 0:
            raise Uncut("switched off")
        if planned.get("why"):
            raise Uncut(planned["why"])
        if ingredients.task.augments:
            raise Uncut("examples look different every time (augmentation)")
        if any(hook.changes_base for hook in adapted.hooks):
            raise Uncut("frozen weights change in training (quantization schedule)")

    def _cut(self, attempt: Attempt, ingredients: Ingredients, task: PreparedTask, splits: Splits, adapted: Adapted) -> Prefix:
        blocks = [site.block for site in adapted.sites if site.block is not None]
        return Prefix.of(
            adapted,
            task,
            splits,
            most=min(blocks, default=None),  # an allocator may act on any of them later
            device=attempt.device,
            precision=attempt.precision,
            about=self._about(attempt, ingredients),
            store=Store(self.options.cache / "prefixes", self.options.prefix_cache_mb or LIMIT_MB),
            by=f"{self.config.label} seed {self.config.seed} ({self.config.run_id})",
            waiting=self.waiting,
        )

    def _about(self, attempt: Attempt, ingredients: Ingredients) -> dict[str, Any]:
        """Everything besides the model and the examples that decides a bit of the hidden states."""
        device = attempt.device
        return {
            "backbone": self.config.backbone_fingerprint,
            "data": self.config.data_fingerprint,
            "task": self.config.task,
            "layout": ingredients.task.layout,
            "preprocessing": repr(ingredients.preprocessing()),
            "quantizer": (attempt.quantizer or ingredients.quantizer).spec(),
            "precision": attempt.precision,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "processor": [platform.machine(), cpu_model(), torch.backends.cpu.get_cpu_capability()],
            "products": [torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()],
            "threads": torch.get_num_threads(),
            "packages": {name: _version(name) for name in _PACKAGES},
        }

    def _filled(self, prefix: Prefix, examples: np.ndarray) -> None:
        rows = prefix.ready(examples)
        if rows is None:
            return
        files = [file for file in self.record.get("files", []) if self.record.get("used")]
        if all(file["made"] != rows.about["made"] for file in files):
            files.append(_told(rows))
        size = sum(file["mb"] for file in files)
        about = {"attempt": self._attempt, "used": True, "cut": prefix.cut.name, "blocks": prefix.cut.blocks}
        self._write({**about, "mb": round(size, 3), "files": files})

    def _write(self, record: dict[str, Any]) -> None:
        self.record = record
        self.attempts.write(record)

    def _lost(self, reason: Exception) -> RecordError:
        return RecordError(
            f"the run was begun with hidden states from disk, and they cannot be had now: {reason}",
            where=str(self.options.cache / "prefixes"),
            remedy="free disk space there and run again, or move the run's folder away to start afresh",
        )


def _told(rows: Rows) -> dict[str, Any]:
    mb = float(rows.offsets[-1]) / 1e6
    found = {"examples": len(rows), "mb": round(mb, 3), "fill_s": round(rows.about["seconds"], 3), "made": rows.about["made"]}
    return {**found, "by": rows.about["by"], "filled_here": rows.here, "damaged": rows.damaged}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
