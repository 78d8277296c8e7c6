"""Rank utilisation against numpy's singular value decomposition of the whole update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from peftlab.nn.parts import Part
from peftlab.probes.rank_utilisation import FILE, RankUtilisation, utilisation
from tests.probes.conftest import view
from tests.training.conftest import Lab


def part(values: list[float], d_in: int = 11, d_out: int = 7, scale: float = 2.0) -> Part:
    """A module whose update B A has these singular values."""
    random = np.random.default_rng(0)
    left, _ = np.linalg.qr(random.normal(size=(d_out, len(values))))
    right, _ = np.linalg.qr(random.normal(size=(d_in, len(values))))
    up, down = torch.tensor(left * np.array(values)), torch.tensor(right.T.copy())
    return Part(tensors=((down, 0), (up, 1)), d_in=d_in, d_out=d_out, scale=scale)


@pytest.mark.parametrize(
    ("values", "effective", "rank_90"),
    [([1, 1, 1, 1], 4.0, 4), ([1, 1e-9], 1.0, 1), ([3, 1], np.exp(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1))), 1)],
)
def test_known_spectra(values: list[float], effective: float, rank_90: int) -> None:
    found = utilisation(part(values))
    assert found["effective_rank"] == pytest.approx(effective)
    assert found["rank_90"] == rank_90
    assert found["share_in_use"] == pytest.approx(effective / len(values))
    assert found["singular_values"] == pytest.approx([2 * v for v in values])


def test_nothing_learnt_is_no_rank() -> None:
    found = utilisation(part([0.0, 0.0]))
    assert (found["rank"], found["effective_rank"], found["share_in_use"]) == (0, None, None)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_the_piece_taken_out_of_the_base_is_no_update(lab: Lab, tmp_path: Path, init: str) -> None:
    """Before the first step there is none; after training it is what merging changed, of up to twice the rank allotted."""
    trainer = lab.trainer(tmp_path, {"name": "lora", "rank": 4, "init": init})
    hook = RankUtilisation().hook(trainer.adapted, view(trainer))
    for found in hook.report()[FILE]["sites"].values():
        assert (found["rank"], found["singular_values"], found["share_in_use"]) == (4, [], None)
    trainer.fit()
    merged, plain = trainer.adapted.adapter.merge(trainer.adapted), lab.trainer(tmp_path / "plain", "linear-probe")
    for name, found in hook.report()[FILE]["sites"].items():
        before, after = (_weight(m, name) for m in (plain.adapted.module, merged))
        expected = np.linalg.svd(after - before)[1][:8]
        assert len(found["singular_values"]) == 8 and found["singular_values"] == pytest.approx(expected, rel=1e-2, abs=2e-5)
        assert found["rank"] == 4 and found["share_in_use"] == found["effective_rank"] / 4


def _weight(model: Any, name: str) -> np.ndarray:
    return model.get_submodule(name).weight.detach().double().numpy()


@pytest.mark.parametrize("spec", [{"name": "lora", "rank": 4}, {"name": "svd", "rank": 4}], ids=str)
def test_of_a_trained_run(lab: Lab, tmp_path: Path, spec: dict) -> None:
    trainer = lab.trainer(tmp_path, spec)
    hook = RankUtilisation().hook(trainer.adapted, view(trainer))
    trainer.fit()
    sites = hook.report()[FILE]["sites"]
    merged, plain = trainer.adapted.adapter.merge(trainer.adapted), lab.trainer(tmp_path / "plain", "linear-probe")
    assert len(sites) == 4
    for name, found in sites.items():
        before, after = (_weight(m, name) for m in (plain.adapted.module, merged))
        expected = np.linalg.svd(after - before)[1][:4]
        assert found["singular_values"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert found["rank"] == 4 and 1 <= found["effective_rank"] <= 4
