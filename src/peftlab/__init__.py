"""peftlab: which parameter-efficient fine-tuning method suits your model, data and hardware - and is the difference real?

Every verb of the command line is a function here: ``import peftlab; peftlab.run("study.yaml")``. Nothing heavy is imported until
one is used.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_VERBS = frozenset(
    "init list doctor check plan run status analyze report choose choose_ranks export import_results".split()
    + "bundle gc load_packed paper power predict reproduce verify".split()
)

#: What bitsandbytes logs and nobody can act on: at import (peft's, too) that a kernel from a hub is missing, which is not used
#: here; at every 8-bit product that float32 is cast to float16, which is how LLM.int8 is defined.
for _name in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
    logging.getLogger(_name).setLevel(logging.ERROR)

# importlib and not `import`: the layers (records and below) may read __version__ here without depending on the api.


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(importlib.import_module("peftlab.api"), name)
    raise AttributeError(f"module 'peftlab' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_VERBS})


class _VerbPackage(ModuleType):
    """``report`` is a verb and a package: calling the package is the verb."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return importlib.import_module("peftlab.api").report(*args, **kwargs)


importlib.import_module("peftlab.report")
sys.modules["peftlab.report"].__class__ = _VerbPackage
