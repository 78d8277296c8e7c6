"""The audit of the pins: holes fail it, silence of the service does not, and a mirror without advisories is no clean bill."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "tools" / "audit.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def printing(text: str, code: int = 0) -> list[str]:
    """A program that answers as pip-audit does."""
    return [sys.executable, "-c", f"import sys; print({text!r}); sys.exit({code})"]


#: as pip-audit 2.10 writes it (its documentation, "JSON format")
HOLE = {
    "name": "flask",
    "version": "0.5",
    "vulns": [{"id": "PYSEC-2019-179", "fix_versions": ["1.0"], "aliases": ["CVE-2019-1010083"]}],
}
CLEAN = {"name": "jinja2", "version": "3.0.2", "vulns": []}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited: own (1.0)"}


def test_every_pin_is_asked_about(tool: Any) -> None:
    text = (ROOT / "constraints.txt").read_text()
    found = tool.pins(text)
    assert len(found) == sum("==" in line and not line.startswith("#") for line in text.splitlines()) > 100
    assert tool.pins('a==1.0+cpu\n# b==2\nc==3 ; python_version < "3.12"\n') == ["a==1.0", "c==3"]


def test_a_hole_fails_and_says_what_mends_it(tool: Any) -> None:
    said, code = tool.audit(printing(json.dumps({"dependencies": [CLEAN, HOLE, UNKNOWN]}), code=1), ["flask==0.5"])
    assert code == 1
    assert said[0] == "flask 0.5: PYSEC-2019-179 CVE-2019-1010083; mended in 1.0"
    assert said[1] == "2 pins audited, 1 known holes; 1 unknown to the service"
    assert tool.judge({"dependencies": [HOLE]}, {"CVE-2019-1010083": "not used"})[1] == 0


def test_no_hole_passes(tool: Any) -> None:
    assert tool.judge({"dependencies": [CLEAN]}) == (["1 pins audited, 0 known holes"], 0)


def test_silence_is_said_and_passes(tool: Any) -> None:
    said, code = tool.audit(printing("", code=1), ["a==1"])
    assert code == 0 and "not audited" in said[0]
    said, code = tool.audit(["/no/such/program"], ["a==1"])
    assert code == 0 and "not audited" in said[0]


def test_a_mirror_without_advisories_is_not_taken_for_a_clean_bill(tool: Any) -> None:
    said, code = tool.judge({"dependencies": [UNKNOWN, UNKNOWN]})
    assert code == 0 and said == ["no advisories were to be had for any of 2 pins: not audited"]
