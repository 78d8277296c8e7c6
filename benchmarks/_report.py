"""What a benchmark prints: one JSON object that says what was found, and on what: machine, versions, threads, load."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: of one, five and fifteen minutes, before the benchmark adds its own
LOAD = [round(value, 1) for value in os.getloadavg()]


def report(
    benchmark: str, output: Path | None, packages: Sequence[str], settings: Mapping[str, Any], *, threads: int = 1, **found: Any
) -> dict[str, Any]:
    """The object, printed, and written to ``output`` where one is asked for.

    Args:
        packages: whose versions decide what was measured.
        settings: what was measured, before it was.
        found: the results, under their names.
    """
    content = {
        "benchmark": benchmark,
        **settings,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "threads": threads,
        "load_average": LOAD,
        **found,
    }
    text = json.dumps(content, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n", encoding="utf-8")
    return content
