"""Numbers for texts: metrics against scipy, targets read strictly, levels, and what is said about data and options."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from peftlab import registry
from peftlab.backbones.resolve import source_of
from peftlab.errors import DataError, OptionError
from peftlab.tasks._correlation import CorrelationMeter, average_ranks, pearson, spearman
from peftlab.tasks.contract import TextPreprocessing
from peftlab.tasks.text_regression import TextRegression
from tests.tasks.samples import Sample
from tests.tasks.texts import sentences, shared_bert, shared_ratings, write_tsv


def bert() -> TextPreprocessing:
    return source_of(str(shared_bert())).text_preprocessing(str(shared_bert()))


def random_outputs(prepared: Any, batch: Any, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(len(batch["labels"]), 1, generator=generator)


def spec(**options: Any) -> dict[str, Any]:
    return {"kind": "text-regression", "data": str(shared_ratings()), **options}


SAMPLES = [
    Sample(spec=spec(), preprocessing=bert(), outputs=random_outputs),  # pyright: ignore[reportArgumentType]
    Sample(spec=spec(folds=3, bucketing=False, max_length=8), preprocessing=bert(), outputs=random_outputs),  # pyright: ignore
]


def read(folder: Path, values: list[Any], header: str = "text\tscore", **options: Any) -> TextRegression:
    rows = [(text, value) for (text, _), value in zip(sentences(len(values)), values, strict=True)]
    return TextRegression(data=str(write_tsv(folder / "data.tsv", rows, header)), **options)


def scipys(correlation: Any, a: np.ndarray, b: np.ndarray) -> float:
    return float(correlation(a, b)[0])


numbers = st.lists(st.tuples(st.integers(-50, 50), st.integers(-50, 50)), min_size=2, max_size=30)


@given(pairs=numbers, scale=st.sampled_from([1.0, 1e-6, 1e150]))
def test_correlations_are_scipys_and_zero_where_there_is_none(pairs: list[tuple[int, int]], scale: float) -> None:
    a, b = (np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
    np.testing.assert_array_equal(average_ranks(a), stats.rankdata(a))
    if len(set(a)) < 2 or len(set(b)) < 2:
        assert pearson(a * scale, b) == spearman(a * scale, b) == 0.0
        return
    assert pearson(a * scale, b) == pytest.approx(scipys(stats.pearsonr, a, b), abs=1e-9)
    assert spearman(a * scale, b) == pytest.approx(scipys(stats.spearmanr, a, b), abs=1e-9)


def test_a_meter_gives_scipys_correlations_and_the_mean_squared_error() -> None:
    draws = np.random.default_rng(0)
    target, output = draws.normal(2, 1, 40).astype(np.float32), draws.normal(1, 2, 40).astype(np.float32)
    meter = CorrelationMeter()
    for part in (slice(0, 15), slice(15, 40)):
        meter.update(torch.tensor(output[part])[:, None], {"labels": torch.tensor(target[part])})
    found = meter.compute()
    assert found["pearson"] == pytest.approx(scipys(stats.pearsonr, output, target), abs=1e-6)
    assert found["spearman"] == pytest.approx(scipys(stats.spearmanr, output, target), abs=1e-12)
    assert found["loss"] == pytest.approx(np.mean((output.astype(float) - target) ** 2))
    assert found["rmse"] == pytest.approx(math.sqrt(found["loss"]))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_output_that_is_not_finite_is_no_correlation(value: float) -> None:
    meter = CorrelationMeter()
    meter.update(torch.tensor([[1.0], [value], [3.0]]), {"labels": torch.tensor([1.0, 2.0, 3.0])})
    found = meter.compute()
    assert found["pearson"] == found["spearman"] == 0.0
    assert not math.isfinite(found["loss"])
    assert meter.details()["not_finite"] == 1


def test_targets_are_the_numbers_as_written(tmp_path: Path) -> None:
    values = [f"{i / 10:.1f}" for i in range(40)]
    task = read(tmp_path, values, validation=0.2)
    ready = task.prepare(bert(), tmp_path / "cache")
    indices = ready.splits(0).train
    batch = ready.batch(indices)
    assert batch["labels"].dtype == torch.float32
    assert batch["labels"].tolist() == pytest.approx([float(values[i]) for i in indices])
    assert set(ready.inputs(batch)) == {"input_ids", "attention_mask", "token_type_ids"}
    assert task.info().label_names == ("score",) and task.info().outputs == 1
    planned = task.batch_shapes(4, bert(), task.info())
    assert {name: dtype for name, (_, dtype) in planned.items()} == {name: tensor.dtype for name, tensor in batch.items()}


def test_the_level_of_the_mean_is_what_a_constant_output_scores(tmp_path: Path) -> None:
    ready = read(tmp_path, [i % 7 for i in range(60)]).prepare(bert(), tmp_path / "cache")
    splits = ready.splits(0)
    mean = ready.batch(splits.train)["labels"].mean()
    meter = ready.meter()
    meter.update(mean.expand(len(splits.test), 1), ready.batch(splits.test))
    found = meter.compute()
    assert {name: found[name] for name in ready.info.majority} == pytest.approx(dict(ready.info.majority))
    assert ready.info.chance == {"pearson": 0.0, "spearman": 0.0}


@pytest.mark.parametrize("value", ["good", "", "nan", "inf", "1e60", "1,5"])
def test_what_is_no_number_is_named_with_its_row(value: str, tmp_path: Path) -> None:
    values: list[Any] = [i % 5 for i in range(20)]
    values[7] = value
    with pytest.raises(DataError, match="number") as caught:
        read(tmp_path, values).info()
    assert "line 9 score" in caught.value.where


@pytest.mark.parametrize(("factor", "shift", "warned"), [(1, 0, False), (1000, 0, True), (0.001, 0, True), (1, 500, True)])
def test_targets_far_from_one_are_warned_of(factor: float, shift: float, warned: bool, tmp_path: Path) -> None:
    info = read(tmp_path, [factor * (i % 6) + shift for i in range(40)]).info()
    assert any("divide or shift" in warning for warning in info.warnings) == warned


def test_targets_that_are_all_alike_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="every train target is 3"):
        read(tmp_path, [3] * 30).info()


def test_label_smoothing_is_an_error() -> None:
    task = registry.create("task", spec(), key="kind")
    with pytest.raises(OptionError, match="no labels to smooth") as caught:
        task.loss(torch.zeros(2, 1), {"labels": torch.ones(2)}, 0.1)
    assert caught.value.where == "train.label_smoothing"


def test_stsb_is_read_from_glues_own_files(tmp_path: Path) -> None:
    header = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
    rows = [(i, "news", "f", "2012", i, "a", "b", f'a man "{i}', f"a woman {i}", f"{i % 6}.{i % 4}00") for i in range(40)]
    for name in ("train", "dev"):
        write_tsv(tmp_path / f"{name}.tsv", rows, header)
    task = TextRegression(data={"name": "stsb", "path": str(tmp_path)})
    assert task.columns() == ["sentence1", "sentence2"]
    info = task.info()
    assert info.sizes == {"train": 36, "validation": 4, "test": 40} and info.label_names == ("score",)
    assert info.majority["rmse"] == pytest.approx(float(np.std([i % 6 + (i % 4) / 10 for i in range(40)])), abs=0.1)
