"""Arms that were trained elsewhere: a paper calls them what they are, and says no less of the others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from peftlab.records.store import ResultsFolder
from peftlab.report.paper.numbers import read_numbers
from tests.report.paper.conftest import again


def imported(folder: Path, label: str, adapter: dict[str, Any]) -> None:
    """An arm of one run as `peftlab import` leaves it: nothing is known of its training."""
    (beside, *_) = (run for run in ResultsFolder(folder).runs("evaluation") if run.config().label == "full")
    about = {"arm": label, "label": label, "slug": label, "adapter": adapter, "train": {}, "factors": {}, "tuned": {}}
    config = beside.config().model_copy(update=about)
    place = ResultsFolder(folder).run(config).create(config).path
    outcome = json.loads((beside.path / "results.json").read_text(encoding="utf-8"))
    outcome |= {"run_id": config.run_id, "steps": 0, "time": {}, "memory": {}, "flags": ["imported, not trained here"]}
    (place / "results.json").write_text(json.dumps(outcome), encoding="utf-8")


def test_imported_arms_are_called_what_they_are(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copy2))
    before = (copy / "paper" / "numbers.tex").read_text(encoding="utf-8")
    imported(copy, "theirs", {"name": "imported adapter", "source": "seed-0", "sha256": {"adapter_model.safetensors": "ab" * 32}})
    imported(copy, "published", {"name": "outside results", "source": "numbers.csv", "sha256": "cd" * 32})
    again(copy)
    texts = {path.name: path.read_text(encoding="utf-8") for path in (copy / "paper" / "sections").glob("*.tex")}
    for name, label in (("imported adapter", "theirs"), ("outside results", "published")):
        told = rf"\entry{{\texttt{{{name}}}}}Imported, not trained here: the records name its source"
        assert told in texts["methods.tex"] and rf"Arm: \texttt{{{label}}}." in texts["methods.tex"]
    assert "does not know" not in texts["methods.tex"] and "source seed-0" in texts["supplement.tex"]
    assert r"Imported, not trained here: \texttt{published}, \texttt{theirs}." in texts["protocol.tex"]
    assert "Every arm that was trained here was trained with AdamW" in texts["protocol.tex"]
    assert "not known here" in texts["checklist.tex"]
    now = read_numbers((copy / "paper" / "numbers.tex").read_text(encoding="utf-8"))
    for key, value in read_numbers(before).items():  # what the others were trained with is no less known
        assert not key.startswith("train.") or now[key] == value, key
