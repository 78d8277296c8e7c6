"""Known security holes of the pinned packages (constraints.txt), as pip-audit finds them: `make audit`.

pip-audit lives in an environment of its own (build/audit), because nothing else needs it. Exit code 1: a pin has a known hole.
Where the advisories cannot be had - no connection, or a mirror that has none - that is said, and the exit code is 0.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TOOL = "pip-audit==2.10.1"
HOME = ROOT / "build" / "audit"
LIMIT_S = 300
#: advisory -> why it does not concern us; empty is best
ACCEPTED: dict[str, str] = {}


def pins(text: str) -> list[str]:
    """``name==version`` of every pin, without comments, markers and local versions (``2.14.1+cpu``)."""
    return re.findall(r"^([A-Za-z0-9][A-Za-z0-9._-]*==[^\s;+#]+)", text, re.MULTILINE)


def judge(report: dict[str, Any], accepted: dict[str, str] = ACCEPTED) -> tuple[list[str], int]:
    """(what to say, exit code) of pip-audit's JSON."""
    found, unknown, known = [], 0, 0
    for package in report.get("dependencies", []):
        if "skip_reason" in package:
            unknown += 1
            continue
        known += 1
        for hole in package.get("vulns", []):
            names = [hole["id"], *hole.get("aliases", [])]
            if any(name in accepted for name in names):
                continue
            mended = ", ".join(hole.get("fix_versions", [])) or "no version yet"
            found.append(f"{package['name']} {package['version']}: {' '.join(names)}; mended in {mended}")
    if not known:
        return [f"no advisories were to be had for any of {unknown} pins: not audited"], 0
    said = [
        *found,
        f"{known} pins audited, {len(found)} known holes" + (f"; {unknown} unknown to the service" if unknown else ""),
    ]
    return said, 1 if found else 0


def audit(command: Sequence[str], requirements: Sequence[str]) -> tuple[list[str], int]:
    """Run pip-audit (``command``) over the pins."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "pins.txt"
        listed.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--timeout", "10"]
        try:
            arguments = [*command, "--requirement", str(listed), *options]
            done = subprocess.run(arguments, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            return [f"pip-audit could not be run, not audited: {error}"[:300]], 0
    try:
        return judge(json.loads(done.stdout))
    except (ValueError, KeyError, TypeError, AttributeError):  # it prints no report where the service does not answer
        why = next(iter(reversed(done.stderr.strip().splitlines())), f"code {done.returncode}")
        return [f"the advisory service cannot be reached, not audited: {why}"[:300]], 0


def installed() -> list[str] | None:
    """The command; None where pip-audit cannot be installed."""
    python = HOME / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(HOME)], check=True, capture_output=True, timeout=LIMIT_S)
        install = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet", TOOL]
        subprocess.run(install, check=True, capture_output=True, timeout=2 * LIMIT_S)
    except (OSError, subprocess.SubprocessError):
        return None
    return [str(python), "-m", "pip_audit"]


def main() -> int:
    command = installed()
    if command is None:
        print(f"{TOOL} cannot be installed here, not audited")
        return 0
    said, code = audit(command, pins((ROOT / "constraints.txt").read_text(encoding="utf-8")))
    print("\n".join(said))
    return code


if __name__ == "__main__":
    sys.exit(main())
