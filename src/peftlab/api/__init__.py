"""The verbs of peftlab as Python functions; the command line calls nothing else.

Every function returns an :class:`~peftlab.api.answers.Answer`. A verb's module is imported when the verb is first used, so that
``analyze`` never waits for torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time __getattr__ below does it
    from peftlab.api.bundling import bundle as bundle
    from peftlab.api.checking import check as check
    from peftlab.api.collecting import gc as gc
    from peftlab.api.doctoring import doctor as doctor
    from peftlab.api.exporting import export as export
    from peftlab.api.importing import import_results as import_results
    from peftlab.api.listing import list as list
    from peftlab.api.loading import load_packed as load_packed
    from peftlab.api.papers import paper as paper
    from peftlab.api.predicting import predict as predict
    from peftlab.api.ranking import choose_ranks as choose_ranks
    from peftlab.api.reproducing import reproduce as reproduce
    from peftlab.api.running import analyze as analyze
    from peftlab.api.running import choose as choose
    from peftlab.api.running import plan as plan
    from peftlab.api.running import report as report
    from peftlab.api.running import run as run
    from peftlab.api.standing import status as status
    from peftlab.api.starting import init as init
    from peftlab.api.verifying import verify as verify

#: verb -> the module of this package that has it
_VERBS = {
    "init": "starting",
    "list": "listing",
    "doctor": "doctoring",
    "check": "checking",
    "plan": "running",
    "run": "running",
    "status": "standing",
    "analyze": "running",
    "report": "running",
    "choose": "running",
    "choose_ranks": "ranking",
    "export": "exporting",
    "gc": "collecting",
    "import_results": "importing",
    "load_packed": "loading",
    "paper": "papers",
    "power": "seeds",
    "predict": "predicting",
    "verify": "verifying",
    "reproduce": "reproducing",
    "bundle": "bundling",
}


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module(f"{__name__}.{_VERBS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> Iterable[str]:
    return sorted({*globals(), *_VERBS})
