"""The rate of the machine is measured with products of the type that is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peftlab.nn.flops import product_rate


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_products_are_of_the_type_asked_for(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    seen: list[Any] = []
    right = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b: (seen.append((a.dtype, b.dtype)), right(a, b))[1])
    assert product_rate(torch.device("cpu"), 0.01, 64, dtype=dtype) > 0
    assert set(seen) == {(dtype, dtype)}
