"""The rules for gradients, each against the case it is for and its nearest neighbour."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from peftlab.records.gradient_flow import Flow, events


def of(norm: list[float | None], broken: list[float | None] | None = None) -> list[dict[str, Any]]:
    return events(list(range(1, len(norm) + 1)), {"m": {"norm": norm, "non_finite": broken or [0.0] * len(norm)}})


@pytest.mark.parametrize(
    ("norm", "expected"),
    [
        ([1, 2, 3, 4, 5, 30.1], [("explosion", 6)]),
        ([1, 2, 3, 4, 5, 29.9], []),
        ([1, 2, 3, 4, 60], []),  # four points are no history
        ([1, 1, 1, 1, 1, 0.9e-3, 0.9e-3, 0.9e-3], [("vanishing", 8)]),
        ([1, 1, 1, 1, 1, 0.9e-3, 0.9e-3, 1.1e-3, 0.9e-3], []),
        ([0, 1, 0, 0, 0], [("vanishing", 5)]),
        ([0, 0, 0, 1], []),  # the first point is apart
        ([1, None, 1], [("non-finite", 2)]),
    ],
)
def test_rules(norm: list[float | None], expected: list[tuple[str, int]]) -> None:
    assert [(e["kind"], e["step"]) for e in of(norm)] == expected


def test_a_module_without_entries_is_not_judged() -> None:
    assert of([1, None, None, None], [0, None, None, None]) == []


def test_steady_gradients_are_never_flagged() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):  # noise of a factor of two, falling by a factor of 50
        norms = np.exp(0.4 * random.normal(size=50)) * np.geomspace(1, 0.02, 50)
        assert of(list(norms)) == []


def test_columns_that_do_not_fit_are_refused() -> None:
    columns = {key: [1.0] for key in ("norm", "mean", "max", "zeros", "non_finite")}
    with pytest.raises(ValueError, match="do not fit"):
        Flow.model_validate({"steps": [1, 2], "modules": {"m": {"block": 0, "role": "q", **columns}}})
