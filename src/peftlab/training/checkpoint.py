"""Checkpoints: everything a run needs to go on bit for bit, and nothing that can run code.

One committed folder per checkpoint (``step-00000120``): ``tensors.safetensors`` and ``state.json``, under the manifest of
records/manifest.py. Random state is not saved: it is a function of (seed, step).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftlab.records.commit import commit_folder, disk_errors
from peftlab.records.manifest import verify_folder

KEEP = 2
_TENSORS, _STATE = "tensors.safetensors", "state.json"


def flatten(state: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Nested state as (path -> tensor, path -> JSON value). Keys hold no ``|``."""
    tensors: dict[str, torch.Tensor] = {}
    values: dict[str, Any] = {}
    for key, value in state.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            inner_tensors, inner_values = flatten(value, path + "|")
            tensors |= inner_tensors
            values |= inner_values
        elif torch.is_tensor(value):
            tensors[path] = value
        else:
            values[path] = value
    return tensors, values


def unflatten(tensors: Mapping[str, torch.Tensor], values: Mapping[str, Any]) -> dict[str, Any]:
    """Inverse of :func:`flatten`."""
    state: dict[str, Any] = {}
    for path, value in [*tensors.items(), *values.items()]:
        *parents, last = path.split("|")
        node = state
        for key in parents:
            node = node.setdefault(key, {})
        node[last] = value
    return state


class Checkpoints:
    """The checkpoints of one run, newest last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Commit the state after ``step`` optimizer steps; older checkpoints beyond the last two are removed once it is safe.

        Raises:
            RecordError: the disk is full or not writable.
        """
        tensors, values = flatten(state)
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}  # safetensors refuses shared storage

        def write(folder: Path) -> None:
            save_file(plain, folder / _TENSORS)
            (folder / _STATE).write_text(json.dumps({"step": step, "values": values}, sort_keys=True), encoding="utf-8")

        target = self.folder / f"step-{step:08d}"
        if target.exists():
            return
        commit_folder(target, write)
        for old in self._paths()[:-KEEP]:
            shutil.rmtree(old)

    def latest(self) -> tuple[int, dict[str, Any], list[str]] | None:
        """(step, state, notes on damaged checkpoints passed over), or None; a notes-only result has step 0 and no state.

        Raises:
            RecordError: the disk does not give them, whole or damaged.
        """
        with disk_errors(self.folder):
            return self._latest()

    def _latest(self) -> tuple[int, dict[str, Any], list[str]] | None:
        notes: list[str] = []
        for path in reversed(self._paths()):
            problems = verify_folder(path)
            if problems:
                notes.append(f"checkpoint {path.name} is damaged and was passed over: {problems[0]}")
                continue
            try:
                raw = json.loads((path / _STATE).read_text(encoding="utf-8"))
                return raw["step"], unflatten(load_file(path / _TENSORS), raw["values"]), notes
            except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                notes.append(f"checkpoint {path.name} is damaged and was passed over: {type(error).__name__}")
        return (0, {}, [*notes, "no checkpoint was usable: restarted from step 0"]) if notes else None

    def clear(self) -> None:
        """Remove all checkpoints, once the results are committed."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir()) if self.folder.is_dir() else []
