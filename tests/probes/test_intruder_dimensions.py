"""Intruder dimensions: known ones are counted, as numpy counts them, and weights that did not change are passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftlab.errors import OptionError
from peftlab.nn.packed import PackedLinear
from peftlab.probes import intruder_dimensions
from peftlab.probes.intruder_dimensions import FILE, IntruderDimensions, similarities
from peftlab.registry import create
from peftlab.training.loop import Trainer
from tests.probes.conftest import watch
from tests.training.conftest import Lab


def orthogonal(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


def weight(module: Any, name: str) -> np.ndarray:
    return module.get_submodule(name).weight.detach().double().numpy()


@pytest.mark.parametrize("shape", [(12, 12), (8, 20), (20, 8)], ids=str)
def test_a_direction_put_in_is_found(shape: tuple[int, int]) -> None:
    """W = W0 + s u v' with u spread evenly over all left singular vectors of W0: |cos| = 1 / sqrt(12) to each, if s is large."""
    d_out, d_in = shape
    size = min(shape)
    left, right = orthogonal(d_out, 0), orthogonal(d_in, 1)
    before = torch.tensor(left[:, :size] @ np.diag(np.linspace(2, 1, size)) @ right[:, :size].T)
    intruder = left[:, :size].sum(axis=1) / np.sqrt(size)
    after = before + 1e4 * torch.tensor(np.outer(intruder, right[:, 0]))
    assert similarities(before, after, 1)[0] == pytest.approx(1 / np.sqrt(size), abs=1e-3)
    assert similarities(before, before, size) == pytest.approx(np.ones(size))
    assert similarities(before, -3 * before, 4) == pytest.approx(np.ones(4))  # signs and sizes are no directions


def test_of_vectors_beyond_those_of_the_base_all_is_new() -> None:
    """A base of 20 x 8 knows eight directions of twenty; one at right angles to them has no likeness at all."""
    left, right = orthogonal(20, 0), orthogonal(8, 1)
    before = torch.tensor(left[:, :8] @ right.T)
    after = before - before @ torch.tensor(np.outer(right[:, 0], right[:, 0]))
    after += 50 * torch.tensor(np.outer(left[:, 19], right[:, 0]))  # instead of what the base does with this input
    assert similarities(before, after, 1)[0] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("spec", "changed"), [({"name": "lora", "rank": 4}, 4), ({"name": "full"}, 12)], ids=["lora", "full"])
def test_of_a_trained_run_as_numpy_counts(lab: Lab, tmp_path: Path, spec: dict[str, Any], changed: int) -> None:
    trainer = lab.trainer(tmp_path, spec)
    probe = IntruderDimensions(layers=3, leading=5, threshold=0.9)
    hook = watch(trainer, probe, fresh=lambda: lab.trainer(tmp_path / "fresh", spec).adapted)
    trainer.fit()
    found = hook.report()[FILE]
    plain = lab.trainer(tmp_path / "plain", "linear-probe").adapted.module
    merged = trainer.adapted.adapter.merge(trainer.adapted)
    assert (found["layers_changed"], found["layers_compared"]) == (changed, 3)
    blocks = [layer["block"] for layer in found["layers"].values()]
    assert blocks[0] == 0 and blocks[-1] == 1  # spread over depth
    total = 0
    for name, layer in found["layers"].items():
        known, new = (np.linalg.svd(weight(m, name))[0] for m in (plain, merged))
        expected = [max(abs(float(u @ v)) for v in known.T) for u in new.T[:5]]
        assert layer["similarity"] == pytest.approx(expected, abs=1e-6)
        assert layer["intruders"] == sum(value < 0.9 for value in expected)
        total += layer["intruders"]
    assert found["intruders"] == total and found["intruders_per_layer"] == total / 3


@pytest.mark.parametrize("scheme", ["int4", "nf4"])
def test_what_is_merged_into_zero_points_is_a_change(lab: Lab, tmp_path: Path, scheme: str) -> None:
    """QA-LoRA: the merged model stays packed, with the codes it had, and multiplies with another matrix."""
    spec = {"name": "pooled", "rank": 2}
    quantizer = {"name": "groupwise", "type": scheme, "group_size": 8}

    def trainer(folder: str) -> Trainer:
        return lab.trainer(tmp_path / folder, spec, quantizer=quantizer)

    watched = trainer("run")
    probe = IntruderDimensions(layers=2, leading=3, threshold=0.9)
    hook = watch(watched, probe, fresh=lambda: trainer("fresh").adapted)
    watched.fit()
    found = hook.report()[FILE]
    assert (found["layers_changed"], found["layers_compared"]) == (4, 2)
    fresh, merged = trainer("plain").adapted, watched.adapted.adapter.merge(watched.adapted)
    before, sites = fresh.adapter.merge(fresh), {site.name: site for site in watched.adapted.backbone.roles.sites}
    for name, layer in found["layers"].items():
        site = sites[name]
        rows = slice(site.offset, site.offset + site.d_out)
        packed = [m.get_submodule(site.parent or name) for m in (before, merged)]
        assert all(isinstance(each, PackedLinear) for each in packed)
        known, new = (np.linalg.svd(each.dequantize().double().numpy()[rows])[0] for each in packed)  # pyright: ignore
        expected = [max(abs(float(u @ v)) for v in known.T) for u in new.T[:3]]
        assert layer["similarity"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("spec", ["linear-probe", "bitfit"])
def test_where_no_matrix_was_trained_nothing_is_counted(lab: Lab, tmp_path: Path, spec: str) -> None:
    trainer = lab.trainer(tmp_path, spec)
    hook = watch(trainer, IntruderDimensions(layers=8), fresh=lambda: lab.trainer(tmp_path / "fresh", spec).adapted)
    trainer.fit()
    found = hook.report()[FILE]
    assert (found["layers_changed"], found["intruders"], found["intruders_per_layer"], found["layers"]) == (0, 0, None, {})


def test_copies_that_do_not_fit_are_not_made(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = watch(lab.trainer(tmp_path, "lora"), IntruderDimensions(layers=8))  # its model made anew would fail the test
    monkeypatch.setattr(intruder_dimensions, "memory_mb", lambda _: (1.0, 0.1))
    assert hook.report()[FILE]["left_out"].startswith("copies need ")


@pytest.mark.parametrize("options", [{"layers": -1}, {"leading": 0}, {"threshold": 0.0}, {"threshold": 1.5}], ids=str)
def test_wrong_options_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as caught:
        create("probe", {"name": "intruder_dimensions", **options}, where="probes.intruder_dimensions")
    assert caught.value.where == f"probes.intruder_dimensions.{next(iter(options))}"
