"""Every option of every command, typed as a person types it, on one small study: it does what its help says, which is looked for
in what the command leaves behind or prints, and no number moves that should not.

Parts that each have their own tests have failed together before: `--compile` was tested everywhere but on the command line.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from peftlab import cli
from peftlab.records.record import RunError
from peftlab.records.run_folder import RunFolder
from peftlab.records.store import ResultsFolder
from tests.execution.clusters import NEEDS_RAY, VARIABLES, Cluster, variables

STUDY = """
study: options
question: Does every option of every command do what its help says?
backbone: bundled:vit-nano
task: {kind: image-classification, data: digits, train_size: 64, validation_size: 32, test_size: 64}
seeds: [0, 1]
train: {max_steps: 4, batch_size: 16, learning_rate: 1e-2}
arms:
  full: {adapter: full, learning_rate: 1e-3}
  probe: {adapter: linear-probe}
  lora: {adapter: {name: lora, rank: 4}}
  qa: {adapter: {name: pooled, rank: 4}, quantizer: {name: groupwise, type: int4, group_size: 16}}
analysis: {metric: accuracy, baseline: full, margin: {relative: 0.3}}
"""
#: of the program itself, and the help of each command
ELSEWHERE = {"--help", "--version", "--debug", "--install-completion", "--show-completion"}


@dataclasses.dataclass
class Done:
    """What a command printed, and the folder that it was typed in."""

    folder: Path
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Ground:
    """A folder with the study, its results in ``base``, and what other commands take."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        (folder / "options.yaml").write_text(STUDY)
        self.type("run options.yaml --output base")
        self.base = records(folder / "base/options")
        assert len(self.base) == 8

    def type(self, line: str, code: int = 0) -> Done:
        environment = {**os.environ, **VARIABLES, "PEFTLAB_CACHE": str(self.cache), "COLUMNS": "200", "NO_COLOR": "1"}
        command = [sys.executable, "-m", "peftlab", *shlex.split(line)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == code, f"peftlab {line}\n{done.stdout}\n{done.stderr}"
        return Done(self.folder, done.stdout, done.stderr)

    def same(self, name: str, *expected: tuple[str, int], rel: float = 1e-4) -> list[dict[str, Any]]:
        """Records of ``NAME/options``: those that are expected, and with the losses of the base; in the order asked for."""
        found = records(self.folder / name / "options")
        assert sorted(found) == sorted(expected)
        for key in expected:
            mine, theirs = (of[key]["results"]["metrics"] for of in (found, self.base))
            assert [mine[split]["loss"] for split in ("validation", "test")] == pytest.approx(
                [theirs[split]["loss"] for split in ("validation", "test")], rel=rel
            )
        return [found[key] for key in expected]


def records(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(arm, seed) -> every JSON file of the run's folder."""
    found = {}
    for record in ResultsFolder(folder).runs("evaluation"):
        parts = {path.stem: json.loads(path.read_text()) for path in record.path.glob("*.json")}
        found[parts["config"]["label"], parts["config"]["seed"]] = {**parts, "path": record.path}
    return found


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory, measured: Callable[[Path], Path]) -> Ground:
    cache = tmp_path_factory.mktemp("cache")
    measured(cache)
    return Ground(tmp_path_factory.mktemp("options"), cache)


@pytest.fixture
def cluster() -> Iterator[str]:
    with variables():
        found = Cluster()
        try:
            found.add(cpus=1, fast=1)
            found.wait()
            yield found.address
        finally:
            found.close()


@pytest.fixture
def words(request: pytest.FixtureRequest) -> str:
    """What the test types."""
    return LINES[request.function.__name__]


#: name of its test -> what is typed; {NAME}: what the test puts there
LINES: dict[str, str] = {}


def line(words: str) -> Callable[[Any], Any]:
    def register(test: Any) -> Any:
        LINES[test.__name__] = words
        return pytest.mark.slow(test)

    return register


def test_every_option_is_typed_here() -> None:
    program: Any = typer.main.get_command(cli.app)
    typed: dict[str, set[str]] = {verb: set() for verb in program.commands}
    for words in LINES.values():
        verb, *rest = shlex.split(words)
        typed[verb] |= {word for word in rest if word.startswith("--")}
    for verb, command in program.commands.items():
        options = [p for p in command.params if p.param_type_name == "option"]
        names = {(p.secondary_opts or p.opts)[-1] for p in options} - ELSEWHERE
        assert typed[verb] == names, verb


@line("run options.yaml --output alone --only lora --only full --max-runs 3 --jobs 1 --checkpoint-every 0 --set seeds=[1,0]")
def test_a_part_of_the_study_one_after_another(ground: Ground, words: str) -> None:
    told = ground.type(words)
    ground.same("alone", ("full", 0), ("full", 1), ("lora", 1))
    assert "3 runs, 1 at a time" in told.err and (ground.folder / "alone/options/report/index.html").is_file()
    assert not list((ground.folder / "alone").rglob("step-*")), "checkpoints of runs that ended"


@line("run options.yaml --output plain --only probe --only lora --max-runs 4 --no-fused --no-prefix-cache --json")
def test_as_the_libraries_compute_and_nothing_shared(ground: Ground, words: str) -> None:
    told = ground.type(words)
    assert told.json["runs"] == {"finished": 4}
    probe, _, lora, _ = ground.same("plain", *((arm, seed) for arm in ("probe", "lora") for seed in (0, 1)))
    assert "too little" in ground.base["probe", 0]["prefix"]["why"] and probe["prefix"]["why"] == "switched off"
    assert ground.base["lora", 0]["fused"]["fused"] == 8 and not lora["fused"]["fused"] and not lora["fused"]["asked"]


@line("run options.yaml --output team --only lora --max-runs 1 --processes 2 --shard")
def test_two_processes_share_batches_and_frozen_weights(ground: Ground, words: str) -> None:
    ground.type(words)
    (lora,) = ground.same("team", ("lora", 0))
    assert lora["efficiency"]["first_of_processes"] == lora["results"]["time"]["processes"] == 2


@line("run options.yaml --output stacked --only lora --jobs 1 --stack 2")
def test_two_runs_are_computed_together(ground: Ground, words: str) -> None:
    ground.type(words)
    for lora in ground.same("stacked", ("lora", 0), ("lora", 1)):
        assert lora["results"]["time"]["stacked"]["joint_passes"] > 0 and lora["efficiency"]["stacked"]["runs"] == 2


@line("run options.yaml --output compiled --only lora --max-runs 1 --compile on --device cpu")
def test_steps_are_compiled(ground: Ground, words: str) -> None:
    ground.type(words)
    (lora,) = ground.same("compiled", ("lora", 0))
    assert lora["compiled"]["compiled"] and "compiled" not in ground.base["lora", 0]
    assert lora["results"]["time"]["device"] == "cpu"


@line("run options.yaml --output failed --only lora --max-runs 1 --retry-failed")
def test_a_failed_run_is_run_again_where_that_is_asked_for(ground: Ground, words: str) -> None:
    folder = ResultsFolder(ground.folder / "failed/options")
    folder.open_or_create((ground.folder / "base/options/study.yaml").read_text())
    config = RunFolder(ground.base["lora", 0]["path"]).config()
    run = folder.run(config)
    run.make()
    error = {"type": "OutOfMemory", "what": "none left", "where": "lora", "remedy": "wait"}
    run.fail(RunError(run_id=config.run_id, error=error))
    left = ground.type(words.replace(" --retry-failed", ""), code=1)
    assert "failed before" in left.err and run.status() == "failed"
    ground.type(words)
    ground.same("failed", ("lora", 0))
    assert (run.path / "error-1.json").is_file()


@line("run options.yaml --output nowhere --dry-run")
def test_a_dry_run_is_a_plan_and_makes_nothing(ground: Ground, words: str) -> None:
    told = ground.type(words)
    assert "8 runs" in told.out and not (ground.folder / "nowhere").exists()


@NEEDS_RAY
@line(
    "run options.yaml --output ray --only lora --max-runs 1 --engine ray --address {address} --place lora=fast --gpus 0"
    " --no-shared-disk"
)
def test_a_run_on_a_cluster(ground: Ground, words: str, cluster: str) -> None:
    told = ground.type(words.format(address=cluster))
    ground.same("ray", ("lora", 0))
    assert "1 finished" in told.err


@line(
    "plan options.yaml --output base --set seeds=[0] --only lora --only qa --max-runs 1 --no-prefix-cache --no-fused --stack auto"
    " --compile auto --device cpu --json"
)
def test_a_plan_of_a_part(ground: Ground, words: str) -> None:
    told = ground.type(words).json
    assert [(run["label"], run["seed"]) for run in told["runs"]] == [("lora", 0)]
    said = " ".join(told["notes"])
    assert "not stacked: lora" in said or "stacked: lora" in said
    assert "compiled: lora" in said


@line("check options.yaml --set task.train_size=48 --only lora --device cpu --json")
def test_a_check_of_one_arm(ground: Ground, words: str) -> None:
    proofs = ground.type(words).json["proofs"]
    assert {proof["label"] for proof in proofs} == {"lora"} and all(proof["kept"] for proof in proofs)
    assert "on 48 training examples" in " ".join(proof["detail"] for proof in proofs)


@line("init --template vit-tiny-cifar10 first.yaml")
def test_a_first_study(ground: Ground, words: str) -> None:
    ground.type(words)
    assert "cifar10" in (ground.folder / "first.yaml").read_text()


@line("list quantizer --json")
def test_what_there_is(ground: Ground, words: str) -> None:
    assert {"groupwise", "bnb"} <= set(ground.type(words).json["quantizer"])


@line("doctor --full --json")
def test_everything_this_machine_can(ground: Ground, words: str) -> None:
    told = json.dumps(ground.type(words).json)
    assert "torch.compile" in told and "ONNX" in told


@line("status base/options --json")
def test_the_status(ground: Ground, words: str) -> None:
    assert ground.type(words).json["counts"] == {"finished": 8}


@line("verify base/options --json")
def test_all_hashes_are_right(ground: Ground, words: str) -> None:
    assert ground.type(words).json["ok"]


@line("analyze base/options --json")
def test_findings(ground: Ground, words: str) -> None:
    assert {arm["label"] for arm in ground.type(words).json["arms"]} == {"full", "probe", "lora", "qa"}


@line("choose base/options --memory 8GB --margin 90% --json")
def test_the_smallest_arm_within_limits(ground: Ground, words: str) -> None:
    told = ground.type(words).json
    assert (told["memory_mb"], told["margin"]) == (8000, "90 %")


@line("choose base/options --ranks --arm lora --budget '16 ranks' --metric fisher --json")
def test_ranks_for_the_next_study(ground: Ground, words: str) -> None:
    told = ground.type(words).json
    assert (told["arm"], sum(told["ranks"].values()), told["basis"]) == ("lora", 16, "importance by fisher")


@line("power base/options --margin 5% --power 90% --json")
def test_seeds_that_a_margin_needs(ground: Ground, words: str) -> None:
    told = ground.type(words).json
    baseline = np.mean([ground.base["full", seed]["results"]["metrics"]["test"]["accuracy"] for seed in (0, 1)])
    assert told["power"] == 0.9 and [row["difference"] for row in told["rows"]] == [pytest.approx(0.05 * baseline)] * 3


@line("power --sd 0.01 --difference 0.02 --json")
def test_seeds_from_a_standard_deviation(ground: Ground, words: str) -> None:
    (row,) = ground.type(words).json["rows"]
    assert row["detect"]["seeds"] == 5  # 2 SD, two-sided at 5 %: 0.93 with 5 pairs, 0.77 with 4


@line("reproduce base/options --only lora --seeds 0 --runs {run} --output again --jobs 2 --json")
def test_a_run_is_reproduced(ground: Ground, words: str) -> None:
    run = ground.base["lora", 0]["results"]["run_id"]
    told = ground.type(words.format(run=run[:8])).json
    assert [(one["run_id"], one["verdict"]) for one in told["runs"]] == [(run, "bit-equal")]
    assert (ground.folder / "again/options").is_dir()


@line("gc waste/options --cache --delete --json")
def test_what_nobody_needs_is_deleted(ground: Ground, words: str) -> None:
    shutil.copytree(ground.folder / "base/options", ground.folder / "waste/options")
    waste = ground.folder / "waste/options/runs/lora" / ground.base["lora", 0]["results"]["run_id"] / "checkpoints/step-2.tmp-1"
    waste.mkdir(parents=True)
    (waste / "weights").write_bytes(bytes(1000))
    listed = ground.type(words.replace("--delete ", "")).json
    assert not listed["deleted"] and waste.is_dir() and listed["bytes"] >= 1000
    deleted = ground.type(words).json
    assert deleted["deleted"] and not waste.exists() and len(records(ground.folder / "waste/options")) == 8


@line("bundle base/options --output all.zip --adapters --checkpoints --json")
def test_a_bundle(ground: Ground, words: str) -> None:
    told = ground.type(words).json["bundle"]
    with zipfile.ZipFile(ground.folder / "all.zip") as archive:
        packed = {Path(name).parent for name in archive.namelist() if "/adapter/" in name and name.endswith(".safetensors")}
    assert len(packed) == told["runs"] == 8


@line("export base/options qa packed --packed --evaluate --json")
def test_a_packed_model(ground: Ground, words: str) -> None:
    told = ground.type(words).json
    assert told["weights"] == "exact" and told["test"]["accuracy"] == told["test_of_the_run"]["accuracy"]


@line("export base/options qa merged --merged --requantize --json")
def test_a_merged_model_and_what_it_says_of_an_image(ground: Ground, words: str) -> None:
    assert ground.type(words).json["weights"] == "requantized"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(ground.folder / "black.png")
    (told,) = ground.type("predict merged black.png --json").json["predictions"]
    assert told["file"] == "black.png"


LINES["predict"] = "predict merged black.png --json"


@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
@line("export base/options qa onnx --onnx --activations int8 --json")
def test_a_model_for_onnxruntime(ground: Ground, words: str) -> None:
    told = ground.type(words).json
    assert told["kind"] == "onnx" and 0 < told["engine_difference"] < 0.1  # inputs rounded to int8


@line("import theirs imports/options --label theirs --seed 1 --json")
def test_an_adapter_from_elsewhere(ground: Ground, words: str) -> None:
    ground.type("export base/options lora theirs")
    shutil.copytree(ground.folder / "base/options", ground.folder / "imports/options")
    ground.type(words)
    found = records(ground.folder / "imports/options")
    assert ("theirs", 1) in found and len(found) == 9


@line("report drawn/options --eps --json")
def test_figures_as_eps(ground: Ground, words: str) -> None:
    shutil.copytree(ground.folder / "base/options", ground.folder / "drawn/options")
    assert not list((ground.folder / "drawn").rglob("*.eps"))
    told = ground.type(words).json
    assert (ground.folder / told["report"]).is_file()
    assert len(list((ground.folder / "drawn").rglob("*.eps"))) == len(list((ground.folder / "drawn").rglob("figures/*.pdf")))


@line("paper written/options --sources --submission --json")
def test_sources_of_a_paper_to_submit(ground: Ground, words: str) -> None:
    shutil.copytree(ground.folder / "base/options", ground.folder / "written/options")
    ground.type(words)
    folder = ground.folder / "written/options"
    assert (folder / "paper/main.tex").is_file() and (folder / "submission.zip").is_file()
    assert not (folder / "paper/main.pdf").exists()
