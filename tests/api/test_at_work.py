"""A verb that is at something for long says what on a terminal, and leaves nothing behind where there is none."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

from peftlab.api import running
from tests.api.test_running import STUDY


class Terminal(io.StringIO):
    """What is written to it is seen by a person."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "shown"), [(Terminal(), True), (io.StringIO(), False)], ids=["terminal", "file"])
def test_plan_names_the_arm_it_is_at_on_a_terminal_only(
    stream: io.StringIO, shown: bool, tmp_path: Path, measured: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFTLAB_CACHE", str(measured(tmp_path / "cache")))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "s.yaml").write_text(STUDY)
    monkeypatch.setattr("sys.stderr", stream)
    running.plan(tmp_path / "s.yaml", output=tmp_path)
    for words in ("planning full (1 of 2)", "planning lora (2 of 2)"):
        assert (words in stream.getvalue()) is shown
    assert shown or not stream.getvalue()
