"""Checkpoints: everything a run needs to go on bit for bit, and nothing that can run code.

One committed folder per checkpoint (``step-00000120``): ``tensors.safetensors`` and ``state.json``, under the manifest of
records/manifest.py. Random state is not saved: it is a function of (seed, step).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peftlab.errors import RecordError
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
    """The checkpoints of one run, newest last.

    Damaged ones stay until a new one is safe, which has the notes on them in its state; nothing of them can be used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._newest: int | None = None  #: step of the newest that is known to be sound: taken up, or written here
        self._damaged: set[Path] = set()  #: as they were found; whatever their steps, they count for nothing
        self._told = False  #: that something cannot be deleted

    def save(self, step: int, state: Mapping[str, Any]) -> list[str]:
        """Commit the state after ``step`` optimizer steps; once it is safe, older ones beyond the last two and damaged ones go.

        Returns:
            a note, the first time that one of those cannot be deleted: it is tried again at the next save.

        Raises:
            RecordError: the disk is full or not writable, or does not give back what was written; the others are still there.
        """
        if step == self._newest:
            return []
        tensors, values = flatten(state)
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}  # safetensors refuses shared storage

        def write(folder: Path) -> None:
            save_file(plain, folder / _TENSORS)
            (folder / _STATE).write_text(json.dumps({"step": step, "values": values}, sort_keys=True), encoding="utf-8")

        target = self.folder / f"step-{step:08d}"
        commit_folder(target, write)
        with disk_errors(target):
            problems = verify_folder(target)
        if problems:
            raise RecordError(problems[0], where=str(target), remedy="the disk does not keep what is written; check it")
        self._newest = step
        self._damaged.discard(target)
        sound = [*(path for path in self._paths() if path != target and path not in self._damaged), target]
        notes = self._delete([*sound[:-KEEP], *sorted(self._damaged)])
        self._damaged = {path for path in self._damaged if path.exists()}
        return notes

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
            try:
                if not problems:
                    raw = json.loads((path / _STATE).read_text(encoding="utf-8"))
                    state = unflatten(_loaded(path / _TENSORS), raw["values"])
                    self._newest = raw["step"]
                    return raw["step"], state, notes
            except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                problems = [type(error).__name__]
            self._damaged.add(path)
            notes.append(f"checkpoint {path.name} is damaged and was passed over: {problems[0]}")
        return (0, {}, [*notes, "no checkpoint was usable: restarted from step 0"]) if notes else None

    def clear(self) -> list[str]:
        """Remove all checkpoints, once the results are committed; a note where they cannot be deleted."""
        return self._delete([self.folder]) if self.folder.exists() else []

    def _delete(self, folders: Sequence[Path]) -> list[str]:
        """No run ends for what it does not need any more."""
        refused = []
        for folder in folders:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                refused.append(f"{folder.name}: {error.strerror or error}")
        if not refused or self._told:
            return []
        self._told = True
        return [f"old checkpoints could not be deleted ({refused[0]}); `peftlab gc` does it later"]

    def _paths(self) -> list[Path]:
        return sorted(p for p in self.folder.glob("step-*") if p.is_dir()) if self.folder.is_dir() else []


def _loaded(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of their own: those of ``load_file`` are pages of the file, which whoever keeps one holds open for good."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}
