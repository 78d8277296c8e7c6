"""Faults 12 to 15, 22 and 23: what was written is not what is read, or what was asked for has changed in between."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from peftlab.records.manifest import MANIFEST
from peftlab.records.store import verify
from tests.faults.conftest import Ground, saved
from tools.soak import unlike

WEIGHTS = "tensors.safetensors"


def truncate(checkpoint: Path) -> None:
    whole = (checkpoint / WEIGHTS).read_bytes()
    (checkpoint / WEIGHTS).write_bytes(whole[: len(whole) // 2])


def flip(checkpoint: Path) -> None:
    damaged = bytearray((checkpoint / WEIGHTS).read_bytes())
    damaged[-3] ^= 0x10
    (checkpoint / WEIGHTS).write_bytes(damaged)


def forget(checkpoint: Path) -> None:
    (checkpoint / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(truncate, "bytes", id="12-truncated-weights"),
        pytest.param(flip, "content changed", id="13-a-flipped-bit"),
        pytest.param(forget, "MANIFEST.json is missing", id="14-no-manifest"),
    ],
)
def test_12_to_14_a_damaged_checkpoint_is_passed_over_and_said_so(
    ground: Ground, damage: Callable[[Path], None], said: str
) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill", step=7)
    damage(next(run.checkpoints.glob("*/step-00000006")))
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 1
    assert [note for note in results.notes if "step-00000006 is damaged and was passed over" in note and said in note]


def test_15_every_checkpoint_is_bad(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill", step=7)
    assert saved(run) == [4, 6]
    for checkpoint, damage in zip(sorted(run.checkpoints.glob("*/step-*")), (truncate, forget), strict=True):
        damage(checkpoint)
    ground.killed(config, fault="kill", step=5)
    assert saved(run) == [2, 4], "what is made anew is kept, and what is damaged goes"
    results = ground.ends_well(config).results()
    assert results is not None and results.resumed == 2
    assert len([note for note in results.notes if "no checkpoint was usable: restarted from step 0" in note]) == 1


@pytest.mark.parametrize("name", ["results.json", "config.json", "metrics.jsonl"])
def test_a_damaged_record_is_told_and_its_siblings_go_on(ground: Ground, name: str) -> None:
    damaged, other = ground.config(), ground.config(seed=1)
    ground.run(damaged)
    path = ground.here.run(damaged).path / name
    path.write_text("{" + path.read_text()[: path.stat().st_size // 2] + "\n")
    outcome = ground.run(damaged, other)
    how = {ending.config.seed: ending.how for ending in outcome.endings}
    assert how[1] == "finished"
    assert how[0] == ("failed-before" if name == "results.json" else "reused"), "only what is needed is read"
    assert [problem for problem in verify(ground.here) if name in problem]


def test_22_nan_at_a_step_is_recorded_and_the_same_again(ground: Ground) -> None:
    """A learning rate that throws the weights out of range: where it happens is the run's own affair, and no retry's."""
    config = ground.config("full", learning_rate=1e18, clip_norm=None, schedule="constant", warmup=0.0)
    outcome = ground.run(config, folder=ground.quiet)
    quiet = ground.quiet.run(config).results()
    assert outcome.counts == {"diverged": 1} and outcome.exit_code == 0
    assert quiet is not None and quiet.status == "diverged" and quiet.steps >= 1 and quiet.metrics == {}
    assert quiet.flags == [f"diverged in step {quiet.steps + 1}"]
    ground.killed(config, fault="kill", step=quiet.steps)
    assert ground.run(config).counts == {"diverged": 1}
    ground.same(config)
    assert ground.run(config).counts == {"reused": 1}, "an outcome, not a failure to be tried again"


def test_23_the_configuration_was_changed_between(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill", step=7)
    path = run.path / "config.json"
    before = path.read_text()
    path.write_text(before.replace('"seed": 0', '"seed": 7'))
    outcome = ground.run(config)
    assert outcome.counts == {"failed": 1}
    assert outcome.endings[0].error["type"] == "RecordError" and "configuration was changed" in outcome.endings[0].error["what"]
    path.write_text(before)
    ground.ends_well(config)


def test_23_other_training_is_another_run(ground: Ground) -> None:
    config, changed = ground.config(), ground.config(learning_rate=2e-3)
    ground.killed(config, fault="kill", step=7)
    assert ground.here.run(changed).path != ground.here.run(config).path
    ground.ends_well(changed)
    assert ground.here.run(config).status() == "failed", "what was begun is left as it is"


def test_23_the_backbone_was_changed_between(ground: Ground, tmp_path: Path) -> None:
    """Under the same name and, as a plan that was made before would have it, the same id."""
    own = tmp_path / "vit"
    shutil.copytree(ground.backbone, own)
    ground.backbone = str(own)
    config = ground.config()
    run = ground.killed(config, fault="kill", step=7)
    before = (own / "model.safetensors").read_bytes()
    weights = load_file(own / "model.safetensors")
    name = next(name for name in weights if "query" in name and "weight" in name)
    save_file({**weights, name: weights[name] + 1e-3}, own / "model.safetensors", metadata={"format": "pt"})
    outcome = ground.run(config)
    assert outcome.counts == {"failed": 1}
    assert outcome.endings[0].error["type"] == "RecordError" and "other frozen weights" in outcome.endings[0].error["what"]
    assert saved(run) == [4, 6], "what was done is kept"
    (own / "model.safetensors").write_bytes(before)
    ground.ends_well(config)


def test_23_other_versions_are_flagged_and_stay_flagged(ground: Ground) -> None:
    config = ground.config()
    run = ground.killed(config, fault="kill", step=7)
    path = run.path / "environment.json"
    content = json.loads(path.read_text())
    content["packages"]["torch"] = "2.0.0"
    path.write_text(json.dumps(content))
    ground.killed(config, fault="kill", step=11)
    assert ground.run(config).counts == {"finished": 1}
    results = run.results()
    assert results is not None and results.resumed == 2
    assert [flag for flag in results.flags if flag.startswith("continued with another version: torch 2.0.0 -> ")]
    assert unlike(ground.reference(config), run) == ["results.json: flags differs"], "in truth the versions are the same"
