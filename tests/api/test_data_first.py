"""Bad data stop a study before its first run, and are told once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from peftlab import api
from peftlab.api._data_first import prepare_first
from peftlab.api.answers import pairs
from peftlab.errors import BackboneError, DataError

STUDY = """\
study: photos
backbone: bundled:vit-nano
task: {{kind: image-classification, data: {data}}}
seeds: [0]
train: {{max_steps: 1, batch_size: 4}}
arms:
  full: {{adapter: full}}
  probe: {{adapter: linear-probe}}
"""


@pytest.fixture
def study(tmp_path: Path, measured: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classes of ten images, of which one is cut short."""
    monkeypatch.setenv("PEFTLAB_CACHE", str(measured(tmp_path / "cache")))
    draw = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "photos" / name / f"{i}.png")
    broken = tmp_path / "photos" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    path = tmp_path / "photos.yaml"
    path.write_text(STUDY.format(data=tmp_path / "photos"), encoding="utf-8")
    return path


@pytest.mark.parametrize("verb", ["run", "check"])
def test_an_image_that_cannot_be_read_is_told_once_and_nothing_is_begun(study: Path, verb: str) -> None:
    options: dict[str, Any] = {"output": study.parent / "results"} if verb == "run" else {}
    with pytest.raises(DataError, match=r"1 of 20 images cannot be decoded: .*3\.png") as caught:
        getattr(api, verb)(study, **options)
    assert "on_corrupt: skip" in caught.value.remedy
    assert not (study.parent / "results").exists()


@pytest.mark.parametrize("verb", [api.check, api.run])
def test_a_backbone_that_is_not_there_is_told_once_and_not_by_every_arm(study: Path, verb: Callable[..., Any]) -> None:
    with pytest.raises(BackboneError, match="no such backbone"):
        verb(study, overrides=["backbone=no/such/folder/here", "task.data=digits"])


def test_what_is_skipped_is_told(study: Path) -> None:
    spec = {"kind": "image-classification", "data": str(study.parent / "photos"), "on_corrupt": "skip"}
    asked = [("bundled:vit-nano", spec)] * 2
    told = [sentence for sentence in prepare_first(asked, study.parent / "cache") if "corrupt" in sentence]
    assert len(told) == 1 and "3.png" in told[0] and "skipped" in told[0]


def test_counts_are_words() -> None:
    from rich.console import Console

    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        console.print(pairs({"runs": {"finished": 3, "failed": 1}}))
    assert shown.get().split() == ["runs", "3", "finished,", "1", "failed"]
