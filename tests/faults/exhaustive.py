"""Fault 1 in full, too long for the test suite: every kind of adapter, killed with SIGKILL at every single step of its run.

    python -m tests.faults.exhaustive [--kinds lora full ...] > outcome.json

In one run of each kind the process dies after step 1, goes on, dies after step 2, and so on to the last; in another it dies half
way through every gradient. Each must end as the run that was left alone. Exit code 1 where one does not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from peftlab.records.environment import environment
from peftlab.records.store import ResultsFolder, verify
from tests.contracts.tiny import make
from tests.faults.conftest import EVERY, KINDS, STEPS, Ground
from tools.soak import unlike

FAULTS = ("kill", "kill_between_micro_batches")


def torment(ground: Ground, kind: str, fault: str) -> dict[str, int | list[str]]:
    """Kills, continuations, and what is not as it should be."""
    config = ground.config(kind)
    quiet = ground.reference(config)
    here = ResultsFolder(ground.here.path.with_name(f"{kind}-{fault}")).open_or_create("study: faults\n")
    ground = dataclasses.replace(ground, here=here)
    kills = 0
    for step in range(1, STEPS + 1):
        outcome = ground.run(config, fault={"fault": fault, "step": step})
        kills += outcome.endings[0].error.get("type") == "WorkerDied"
    ground.run(config)
    results = here.run(config).results()
    problems = [*unlike(quiet, here.run(config)), *verify(here)] if results is not None else ["lost"]
    return {"kills": kills, "continued": results.resumed if results is not None else 0, "problems": problems}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    kinds = parser.parse_args().kinds
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        quiet = ResultsFolder(folder / "quiet").open_or_create("study: faults\n")
        ground = Ground(str(make("vit", folder / "vit")), folder / "cache", quiet, quiet)
        found = {kind: {fault: torment(ground, kind, fault) for fault in FAULTS} for kind in kinds}
    every = [one for faults in found.values() for one in faults.values()]
    outcome = {
        "tool": "tests.faults.exhaustive",
        "date": time.strftime("%Y-%m-%d"),
        "steps": STEPS,
        "checkpoint_every_steps": EVERY,
        "kinds": found,
        "tried": sum(int(one["kills"]) for one in every),  # pyright: ignore
        "lost": sum(bool(one["problems"]) for one in every),
        "minutes": round((time.monotonic() - began) / 60, 1),
        "versions": {key: environment()[key] for key in ("peftlab", "python", "cpu", "git")},
    }
    print(json.dumps(outcome, indent=1))
    return 1 if outcome["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
