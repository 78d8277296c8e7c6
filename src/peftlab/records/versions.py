"""Which programs made the runs of a study: said wherever they are not the same. Torch-free."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

#: packages whose version can change a number
PACKAGES = ("torch", "torchvision", "transformers", "peft", "timm", "bitsandbytes", "numpy")


def programs(environment: Mapping[str, Any]) -> dict[str, str]:
    """Program -> version, from ``environment.json``; of peftlab also the commit, and whether its source was changed."""
    packages, git = environment.get("packages"), environment.get("git")
    packages = packages if isinstance(packages, Mapping) else {}
    found = {"python": environment.get("python"), "peftlab": environment.get("peftlab")}
    found |= {name: packages.get(name) for name in PACKAGES}
    found["processes"] = environment.get("processes", 1)  #: of each run
    known = {name: str(version) for name, version in found.items() if version}
    if isinstance(git, Mapping) and git.get("commit"):
        changed = " with changes" if git.get("dirty") else ""
        known["peftlab"] = f"{known.get('peftlab', '')} at commit {str(git['commit'])[:8]}{changed}".strip()
    return known


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    return [f"{name} {before[name]} -> {now[name]}" for name in before if name in now and before[name] != now[name]]


def mixed(environments: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for everything of which the runs used more than one, ``... of torch: 2.13.0 (3 runs), 2.14.1 (5 runs).``"""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for environment in environments:
        for name, version in programs(environment).items():
            seen[name][version] += 1
    several = {name: versions for name, versions in seen.items() if len(versions) > 1}
    told = []
    for name, counts in several.items():
        which = ", ".join(f"{value} ({count} run{'s' if count > 1 else ''})" for value, count in sorted(counts.items()))
        if name == "processes":
            told.append(f"Runs had different numbers of processes, so that times and memory do not compare: {which}.")
        else:
            told.append(f"Runs were made with different versions of {name}: {which}.")
    return told


def continued(before: Mapping[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The environment of a run that goes on: under ``earlier`` the programs of its lives before, where they were others."""
    lives = [*before.get("earlier", ()), programs(before)]
    others = [life for life in lives if isinstance(life, Mapping) and _changes(life, programs(now))]
    return {**now, "earlier": others} if others else now


def continued_with(environment: Mapping[str, Any]) -> list[str]:
    """What changed over the lives of a run, ``torch 2.13.0 -> 2.14.1``."""
    now = programs(environment)
    return list(dict.fromkeys(change for life in environment.get("earlier", ()) for change in _changes(life, now)))
