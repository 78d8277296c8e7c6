"""The verbs of peftlab as Python functions; the command line calls nothing else.

Every function returns an :class:`~peftlab.api.answers.Answer`. A verb's module is imported when the verb is first used, so that
``analyze`` never waits for torch.
"""

from __future__ import annotations

import importlib
from typing import Any

#: verb -> the module of this package that has it
_VERBS = {
    "init": "starting",
    "list": "listing",
    "doctor": "doctoring",
    "check": "checking",
    "plan": "running",
    "run": "running",
    "status": "running",
    "analyze": "running",
    "report": "running",
    "choose": "running",
    "export": "exporting",
    "import_results": "importing",
    "predict": "predicting",
    "verify": "verifying",
}


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(f"{__name__}.{_VERBS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_VERBS})
