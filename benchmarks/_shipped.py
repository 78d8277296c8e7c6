"""A study that ships with the package, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

STUDIES = Path(__file__).parents[1] / "studies"


def run_shipped(name: str, folder: Path, *settings: str) -> Path:
    """Its results in ``folder``, of `peftlab run studies/NAME.yaml`, in a cache of its own.

    Args:
        settings: of the study, as `--set` takes them.

    Raises:
        subprocess.CalledProcessError: the study did not finish; what it said stands above.
    """
    command = [sys.executable, "-m", "peftlab", "run", str(STUDIES / f"{name}.yaml"), "--output", str(folder)]
    environment = {**os.environ, "PEFTLAB_CACHE": str(folder / "cache")}
    subprocess.run([*command, *(word for s in settings for word in ("--set", s))], check=True, env=environment, stdout=sys.stderr)
    return folder / name
