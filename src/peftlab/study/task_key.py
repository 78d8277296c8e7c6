"""What plans and tuning records call a task. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def task_key(task: Mapping[str, Any]) -> str:
    """A short name of a task: kind:data with all further options, so that it tells tasks apart."""
    data, rest = task.get("data", ""), {k: v for k, v in task.items() if k not in ("kind", "data")}
    if isinstance(data, Mapping):
        shown = next((key for key in ("path", "id", "name") if data.get(key)), "")
        rest |= {f"data.{k}": v for k, v in data.items() if k not in ("name", shown)}
        data = data.get(shown, "")
    extra = ",".join(f"{k}={v}" for k, v in sorted(rest.items()))
    return f"{task.get('kind')}:{data}" + (f"[{extra}]" if extra else "")
