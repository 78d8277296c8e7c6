"""What every task promises, run on every task that is there."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from peftlab import registry
from peftlab.errors import OptionError
from peftlab.tasks.contract import PreparedTask, Task
from tests.tasks.samples import Sample

SPLITS = ("train", "validation", "test")


def samples() -> list:
    found = []
    for name in registry.components("task"):
        module = importlib.import_module(f"tests.tasks.test_{name.replace('-', '_')}")  # a task without samples fails here
        found += [pytest.param(sample, id=f"{name}-{i}") for i, sample in enumerate(module.SAMPLES)]
    return found


@pytest.fixture(scope="module", params=samples())
def case(request, tmp_path_factory) -> tuple[Sample, Task, PreparedTask]:
    sample: Sample = request.param
    task = registry.create("task", sample.spec, key="kind")
    return sample, task, task.prepare(sample.preprocessing, tmp_path_factory.mktemp("cache"))


def test_every_task_has_samples():
    assert len(samples()) >= len(registry.components("task")) > 0


def test_spec_round_trip(case):
    sample, task, _ = case
    spec = json.loads(json.dumps(task.spec("kind")))
    assert registry.create("task", spec, key="kind").spec("kind") == spec
    assert set(sample.spec) <= set(spec)


def test_unknown_option_is_named(case):
    sample, *_ = case
    with pytest.raises(OptionError, match="no option 'imagesize'"):
        registry.create("task", {**sample.spec, "imagesize": 3}, key="kind")


def test_fingerprint_is_a_stable_sha256(case):
    sample, task, _ = case
    again = registry.create("task", sample.spec, key="kind")
    assert re.fullmatch("[0-9a-f]{64}", task.fingerprint())
    assert again.fingerprint() == task.fingerprint()


def test_texts_have_columns_and_images_none(case):
    """What `export` writes down for new inputs; names that differ."""
    _, task, _ = case
    columns = task.columns()
    assert bool(columns) == (task.input_kind == "text")
    assert len({*columns}) == len(columns) and all(isinstance(column, str) and column for column in columns)


def test_splits_are_disjoint_sized_and_sorted(case):
    sample, _, prepared = case
    for fold in range(prepared.info.folds):
        splits = prepared.splits(0, fold)
        together = np.concatenate([sample.units(prepared, splits[split]) for split in SPLITS])
        assert together.dtype == np.int64
        assert len(np.unique(together)) == len(together)
        assert all((np.diff(splits[split]) > 0).all() for split in SPLITS)
        assert all(len(splits[split]) for split in SPLITS)
    assert prepared.info.sizes == {split: len(prepared.splits(0)[split]) for split in SPLITS}


def test_same_seed_same_split_and_test_never_moves(case):
    sample, _, prepared = case
    for fold in range(prepared.info.folds):
        first, again, other = (prepared.splits(seed, fold) for seed in (3, 3, 4))
        assert all(np.array_equal(first[split], again[split]) for split in SPLITS)
        assert np.array_equal(first.test, other.test)
        both = ([sample.units(prepared, part) for part in (splits.train, splits.validation)] for splits in (first, other))
        assert np.array_equal(*(np.union1d(*parts) for parts in both))


def test_folds_partition_the_examples(case):
    sample, _, prepared = case
    if prepared.info.folds == 1:
        pytest.skip("no folds")
    tests = np.concatenate([sample.units(prepared, prepared.splits(0, fold).test) for fold in range(prepared.info.folds)])
    first = prepared.splits(0, 0)
    assert np.array_equal(np.sort(tests), np.sort(np.concatenate([sample.units(prepared, first[split]) for split in SPLITS])))


def test_info_before_and_after_preparing_agree(case, tmp_path: Path):
    sample, task, prepared = case
    known = task.info_for(lambda: sample.preprocessing, tmp_path)
    assert dataclasses.replace(prepared.info, warnings=()) == dataclasses.replace(known, warnings=())
    assert set(task.info().warnings) <= set(known.warnings) <= set(prepared.info.warnings)
    assert dataclasses.replace(task.info(), sizes=known.sizes, warnings=()) == dataclasses.replace(known, warnings=())


def test_levels_and_directions_are_reported(case):
    _, _, prepared = case
    info = prepared.info
    assert info.primary_metric in info.higher_is_better
    if info.label_names:
        assert info.primary_metric in info.chance and info.primary_metric in info.majority
    assert set(info.chance) | set(info.majority) <= set(info.higher_is_better)
    assert "loss" in info.higher_is_better and not info.higher_is_better["loss"]
    assert info.outputs == len(info.label_names)


def test_tensors_of_a_batch_have_equally_many_rows(case):
    _, _, prepared = case
    indices = prepared.splits(0).train[:5]
    batch = prepared.batch(indices)
    inputs = prepared.inputs(batch)
    assert inputs and set(inputs) <= set(batch) and "labels" not in inputs
    flat = {"places", "labels", "bytes"} if "places" in batch else set()  # of predicted tokens, counted through all rows
    assert len({batch[name].shape for name in flat & set(batch)}) <= 1
    rows = {len(tensor) for name, tensor in batch.items() if name not in flat}
    assert len(rows) == 1 and (rows.pop() >= len(indices) or not prepared.info.label_names)  # texts may share rows
    for tensor in batch.values():
        assert tensor.device.type == "cpu"
        assert tensor.dtype in (torch.float32, torch.int64)
        assert torch.isfinite(tensor.float()).all()
    single = prepared.batch(indices[2:3])
    assert all(torch.equal(single[key][0], batch[key][2]) for key in prepared.inputs(single) if batch[key].ndim > 2)


def test_batches_are_the_same_without_a_generator_and_driven_by_it_with_one(case):
    _, _, prepared = case
    indices = prepared.splits(0).train[:8]
    plain, again = prepared.batch(indices), prepared.batch(indices)
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    state = torch.get_rng_state()
    first, second = (prepared.batch(indices, torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


def test_targets_are_a_batch_without_what_the_backbone_takes(case):
    _, _, prepared = case
    indices = prepared.splits(0).train[:6]
    batch, targets = prepared.batch(indices), prepared.targets(indices)
    assert targets.keys() == batch.keys() - prepared.inputs(batch).keys()
    assert all(torch.equal(value, batch[name]) for name, value in targets.items())


def test_examples_that_look_different_every_time_are_told(case):
    _, task, prepared = case
    indices = prepared.splits(0).train[:6]
    plain, drawn = prepared.batch(indices), prepared.batch(indices, torch.Generator().manual_seed(1))
    assert task.augments or all(torch.equal(value, drawn[name]) for name, value in plain.items())


def test_loss_is_a_scalar_with_gradient_and_metrics_are_in_bounds(case):
    sample, _, prepared = case
    batch = prepared.batch(prepared.splits(0).test[:16])
    outputs = sample.outputs(prepared, batch, torch.Generator().manual_seed(0)).requires_grad_()
    loss = prepared.loss(outputs, batch)
    assert loss.shape == () and loss.item() >= 0
    loss.backward()
    assert torch.isfinite(outputs.grad).all() and outputs.grad.abs().sum() > 0
    meter = prepared.meter()
    meter.update(outputs, batch)
    metrics = meter.compute()
    assert set(metrics) == set(prepared.info.higher_is_better)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-5)
    for name, value in metrics.items():
        low, high = prepared.info.bounds.get(name, (0, math.inf if name == "loss" else 1))
        assert low <= value <= high
    json.dumps(meter.details(), allow_nan=False)


def test_metrics_do_not_depend_on_batching(case):
    sample, _, prepared = case
    indices = prepared.splits(0).test[:10]
    whole = prepared.batch(indices)
    outputs = sample.outputs(prepared, whole, torch.Generator().manual_seed(0))
    one, two = prepared.meter(), prepared.meter()
    one.update(outputs, whole)
    for part in (slice(0, 3), slice(3, None)):
        if "places" in whole:  # logits are flat: each part is laid out anew, and the same labels have the same logits
            some = prepared.batch(indices[part])
            two.update(sample.outputs(prepared, some, torch.Generator().manual_seed(0)), some)
        else:
            two.update(outputs[part], {key: value[part] for key, value in whole.items()})
    assert one.compute() == pytest.approx(two.compute(), abs=1e-12)
    items = two.predictions()
    assert items and all(len(array) == len(indices) for array in items.values())
    assert {"label", "prediction"} <= set(items) or len(prepared.info.label_names) < 2


def test_outputs_that_are_not_finite_give_numbers_not_exceptions(case):
    sample, _, prepared = case
    batch = prepared.batch(prepared.splits(0).test[:6])
    outputs = torch.full_like(sample.outputs(prepared, batch, torch.Generator().manual_seed(0)), math.nan)
    meter = prepared.meter()
    meter.update(outputs, batch)
    metrics = meter.compute()
    assert math.isnan(metrics["loss"])
    worst = metrics[prepared.info.primary_metric]
    assert worst == 0 if prepared.info.higher_is_better[prepared.info.primary_metric] else math.isnan(worst)
    json.dumps(meter.details(), allow_nan=False)


def test_prepared_twice_is_equal_and_read_from_the_cache(case, tmp_path: Path):
    sample, task, _ = case
    first = task.prepare(sample.preprocessing, tmp_path)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    second = task.prepare(sample.preprocessing, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == written
    indices = first.splits(0).test[:4]
    assert all(torch.equal(value, second.batch(indices)[key]) for key, value in first.batch(indices).items())
