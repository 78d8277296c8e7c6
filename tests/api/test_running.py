"""What plan shows a person: every arm once, with what is refused and why."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from peftlab.api import running

STUDY = """
study: narrow
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits, train_size: 64}
seeds: [0]
train: {max_steps: 4}
tune: {learning_rate: [1e-3, 3e-3], seeds: [100]}
require: {trainable_percent: 0.3}
arms: {full: {adapter: full}, lora: {adapter: lora}}
analysis: {baseline: full}
"""


def shown(path: Path, *only: str) -> str:
    stream = io.StringIO()
    Console(file=stream, width=200).print(running.plan(path, only=only, output=path.parent).table())
    return stream.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, measured: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTLAB_CACHE", str(measured(tmp_path / "cache")))


def test_a_refused_arm_is_told_once_though_its_tuning_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    text = shown(tmp_path / "s.yaml")
    assert text.count("refused: lora") == 1 and "at most 0.3 %" in text
    assert re.search(r"^3 runs, ", text, re.MULTILINE)  # two of tuning, one of evaluation


def test_one_run_is_one_run(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(re.sub("(tune|require): .*\n", "", STUDY))
    assert re.search(r"^1 run, ", shown(tmp_path / "s.yaml", "lora"), re.MULTILINE)
