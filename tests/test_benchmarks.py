"""Benchmarks measure what they say they measure: every allocator that acts, every type, a schedule under way."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from peftlab.nn.hooks import TrainingHook
from peftlab.registry import components
from peftlab.study.expand import cells
from peftlab.study.load import validate_study
from peftlab.training.assemble import Ingredients

FOLDER = Path(__file__).parents[1] / "benchmarks"

PUBLISHED = {"int4", "int8", "nf4", "fp4"}  #: the types of the papers


def benchmark(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module(name)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("[a-z]*.py")))
def test_make_bench_can_start_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Called without an argument, as `make bench` does; everything has a default."""
    module = benchmark(name, monkeypatch)
    seen: list[argparse.ArgumentParser] = []

    def parsed(parser: argparse.ArgumentParser, arguments: Any = None) -> Any:
        seen.append(parser)
        raise Parsed

    class Parsed(Exception):
        pass

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    with pytest.raises(Parsed):
        module.main()
    wanted = [action.dest for action in seen[0]._actions if action.required]
    assert not wanted


def test_what_is_measured_is_not_measured_again_and_what_fails_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = benchmark("_all", monkeypatch)
    good = "import sys; open(sys.argv[2], 'w').write('{}'); open('ran', 'a').write('.')"
    bad = "raise SystemExit('no such weights')"
    asked = {name: [sys.executable, "-c", code] for name, code in {"bad": bad, "silent": "", "good": good}.items()}
    monkeypatch.chdir(tmp_path)
    assert bench.run(asked, tmp_path / "bench", "v1") == ["bad", "silent"]
    said = capsys.readouterr().out
    assert "bad: failed" in said and "\n    no such weights" in said and "bad.log" in said
    kept = tmp_path / "bench" / "good.json"
    assert kept.read_text() == "{}" and Path("ran").read_text() == "."
    assert bench.run(asked, tmp_path / "bench", "v1") == ["bad", "silent"]
    assert Path("ran").read_text() == "." and "good: there" in capsys.readouterr().out
    assert bench.run({"good": asked["good"]}, tmp_path / "bench", "v2") == []
    assert Path("ran").read_text() == "..", "measured on other sources"
    assert bench.run({"good": asked["good"]}, tmp_path / "bench", "v2", again=True) == []
    assert Path("ran").read_text() == "..."


def test_sources_that_change_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = benchmark("_all", monkeypatch)
    (tmp_path / "a.py").write_text("x = 1")
    before = bench.fingerprint([tmp_path])
    (tmp_path / "notes.txt").write_text("x")
    assert bench.fingerprint([tmp_path]) == before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert bench.fingerprint([tmp_path]) != before


def test_all_benchmarks_keep_what_they_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every one takes the file that all of them are called with; peers has three parts."""
    bench = benchmark("_all", monkeypatch)
    without = bench.commands(tmp_path / "nothing")
    assert set(bench.commands(tmp_path)) - set(without) == {"peers-study"}
    assert {"peers", "peers-memory", "orchestration"} < set(without)
    for name in without:
        assert '"--output"' in (FOLDER / f"{name.split('-')[0]}.py").read_text(encoding="utf-8"), name


def acts(cls: type) -> bool:
    """Whether its file, or that of a base class, has a hook that does something after a step."""
    names = [value for base in cls.__mro__ for value in vars(sys.modules[base.__module__]).values()]
    hooks = [value for value in names if isinstance(value, type) and issubclass(value, TrainingHook)]
    return any("after_step" in vars(hook) for hook in hooks if hook is not TrainingHook)


def test_every_allocator_that_acts_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = {allocator["name"] for _, allocator in benchmark("allocator_overhead", monkeypatch).ALLOCATORS.values()}
    acting = {name for name, cls in components("allocator").items() if acts(cls)}
    assert {"adalora", "sora", "increlora", "dylora", "proportional"} <= acting
    assert acting <= timed


def test_a_step_of_every_type_and_of_a_schedule_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    sides = benchmark("qa_lora_step", monkeypatch).SIDES
    quantizers = [quantizer for _, quantizer in sides.values() if quantizer["name"] == "groupwise"]
    assert {quantizer["type"] for quantizer in quantizers} == PUBLISHED
    assert any(quantizer.get("schedule") == "linear" for quantizer in quantizers)


def test_a_schedule_under_way_is_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    step = benchmark("qa_lora_step", monkeypatch)
    side = step.Side("bundled:vit-nano", {**step.POOLED, "rank": 2}, dict(step.SIDES["qa-lora int4, rho 0.5"][1]), 32)
    assert side.shares == [0.5]
    full = [m.full for m in side.module.modules() if getattr(m, "full", None) is not None]
    assert full, "the float weights are there"
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert side.step(images, torch.tensor([0, 1])) > 0


def test_whole_models_in_every_type_and_unmerged(monkeypatch: pytest.MonkeyPatch) -> None:
    deployment = benchmark("deployment", monkeypatch)
    assert {quantizer.get("type") for _, quantizer in deployment.MERGED.values()} == {*PUBLISHED, None}
    unmerged = [quantizer for _, quantizer in deployment.UNMERGED.values()]
    assert {(q["name"], q.get("bits")) for q in unmerged} >= {("bnb", 4), ("bnb", 8), ("none", None)}


def test_the_study_of_accuracy_takes_any_backbone_and_data(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = benchmark("_deployment_runs", monkeypatch)
    content = runs.study("a/backbone", "some/folder", 4, {"max_steps": 3}, {"image_size": 96}, [0, 1])
    found = cells(validate_study(content))
    assert {cell.backbone for cell in found} == {"a/backbone"}
    assert {"lora", "qlora-nf4", "qa-lora-int4", "qa-lora-fp4"} <= {cell.label for cell in found}


def test_evaluation_is_compared_with_the_best_size_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = benchmark("evaluation_batch", monkeypatch)
    monkeypatch.setattr(evaluation, "SIZES", (1, 16))
    found = evaluation.measure("bundled:vit-nano", 32, 3, torch.device("cpu"))
    assert set(found["example_ms"]) == {"1", "16"} and min(found["of_best"].values()) == 1
    assert min(found["example_ms"].values()) > 0


def peer_sides(monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any) -> dict[str, Any]:
    """A side of each kind on a ViT-Tiny of 32 px."""
    peers = benchmark("peers", monkeypatch)
    parser = argparse.ArgumentParser()
    peers.add_settings(parser)
    [made] = peers.settings_of(folder, parser.parse_args(["--tiny", "--only", "ViT"])).values()
    return {name: made(**own, **options) for name, own in peers.SIDES.items()}


class Stop:
    """Ends a run after so many steps."""

    number = None

    def __init__(self, steps: int) -> None:
        self.left = steps

    def check(self) -> None: ...

    def __call__(self) -> bool:
        self.left -= 1
        return self.left <= 0


def test_peers_train_as_many_parameters_as_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sides = peer_sides(monkeypatch, tmp_path)
    model, forward = benchmark("_peers_sides", monkeypatch).image_model(sides["peft"])
    parts = Ingredients.of(
        backbone=sides["ours"].backbone,
        task={"kind": "image-classification", "data": "digits", "image_size": 32},
        adapter={"name": "lora", "rank": 8, "targets": "standard"},
        allocator=None,
        quantizer={"name": "none"},
    )
    ours = parts.build(10, 0).trainable().values()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(p.numel() for p in ours)
    assert forward({"pixel_values": torch.zeros(2, 3, 32, 32)}).shape == (2, 10)


def test_sides_run_to_the_step_they_are_stopped_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sides = benchmark("_peers_sides", monkeypatch)
    for name, side in peer_sides(monkeypatch, tmp_path).items():
        if name.endswith("dropout"):
            continue
        stop = Stop(2)
        (tmp_path / name).mkdir()
        if side.who == "ours":
            sides.run_ours(side, tmp_path / name, stop)
        else:
            sides.run_plain(side, stop)
        assert stop.left == 0


def test_a_profile_counts_the_whole_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = benchmark("step_profile", monkeypatch)
    side, profiled = peer_sides(monkeypatch, tmp_path)["peft dropout"], profile.Profiled(1)
    benchmark("_peers_sides", monkeypatch).run_plain(side, profiled)
    found = profiled.by_kind()
    assert sum(found.values()) - found["step"] == pytest.approx(found["step"], abs=1.0)
    assert found["products"] > 0
    assert found["dropout"] > 0
    assert found["attention"] > 0


def test_the_study_of_peers_is_the_same_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    study = benchmark("_peers_study", monkeypatch)
    content = study.study({**study.TINY, "data": "some/folder", "backbone": "a/backbone"})
    found = cells(validate_study(content))
    assert {cell.label for cell in found} == set(study.ARMS)
    for cell in found:
        _, rate, theirs = study.ARMS[cell.label]
        assert cell.train.learning_rate == rate
        assert (cell.adapter["name"] == "lora") == bool(theirs)
        if theirs:
            assert cell.adapter["rank"] == theirs["r"]
            assert theirs["lora_alpha"] == 2 * theirs["r"]


def test_parts_of_a_step_run_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = benchmark("step_parts", monkeypatch)
    for ways in (
        parts.attention(1, 1, 3, 4),
        parts.masks(4, 5),
        parts.layer(4, 16, 8, 0.0),
        parts.layer(4, 16, 8, 0.1),
        parts.dora(4, 16, 8),
    ):
        for way in ways.values():
            way()


def test_the_same_run_with_probes_and_with_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench = benchmark("probe_cost", monkeypatch)
    small = ("train.max_steps=2", "task.train_size=100", "task.test_size=40", "task.validation_size=40")
    config = bench.config_of(bench.STUDY, "lora[rank=8]", tmp_path / "cache", small)
    times = {}
    for probes in (True, False):
        folder = tmp_path / str(probes) / config.run_id
        times[probes] = bench.timed(config, folder, tmp_path / "cache", probes=probes)
        assert (folder / "merge_equivalence.json").exists() == probes and (folder / "parameters.json").exists()
    assert set(times[True]["hooks_s"]) > set(times[False]["hooks_s"])
    saved = [path.read_bytes() for path in sorted(tmp_path.glob("*/*/adapter/adapter_model.safetensors"))]
    assert len(saved) == 2 and saved[0] == saved[1]


def test_a_step_without_unread_rows_has_fewer_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 B (T - 4) (d^2 + 2 d d_ff) in the forward pass, and again for the gradients of the frozen layers' inputs."""
    bench = benchmark("unread_rows", monkeypatch)
    found = bench.measure("bundled:vit-nano", bench.ADAPTERS["lora"], 32, 1)
    config = bench.Side("bundled:vit-nano", bench.ADAPTERS["lora"], 32, read_rows=True).adapted.backbone.module.config
    width, hidden, tokens = config.hidden_size, config.intermediate_size, (config.image_size // config.patch_size) ** 2 + 1
    left_out = 2 * 2 * bench.BATCH * (tokens - 4) * (width**2 + 2 * width * hidden) / 1e9
    assert found["gflop"]["all"] - found["gflop"]["read"] == pytest.approx(left_out, abs=2e-4)
