"""Which device computes, and in which precision."""

from __future__ import annotations

import pytest
import torch

from peftlab.errors import OptionError, PlanRefused
from peftlab.training.precision import resolve_device


def have(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, mps: bool = False) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("wanted", "cuda", "mps", "found"),
    [
        ("auto", True, True, "cuda"),
        ("auto", False, True, "mps"),
        ("auto", False, False, "cpu"),
        ("cpu", True, True, "cpu"),
        ("mps", True, True, "mps"),
        ("cuda", True, False, "cuda"),
    ],
)
def test_what_is_asked_for_else_the_fastest(
    monkeypatch: pytest.MonkeyPatch, wanted: str, cuda: bool, mps: bool, found: str
) -> None:
    have(monkeypatch, cuda=cuda, mps=mps)
    assert resolve_device(wanted) == torch.device(found)


@pytest.mark.parametrize("wanted", ["cuda", "mps"])
def test_what_is_not_here_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch, wanted: str) -> None:
    have(monkeypatch)
    with pytest.raises(PlanRefused, match=f"torch finds no {wanted.upper()} device here") as caught:
        resolve_device(wanted)
    assert "peftlab doctor" in caught.value.remedy


@pytest.mark.parametrize(
    ("wanted", "remedy"), [("gpu", "auto, cpu, cuda (NVIDIA) or mps (Apple)"), ("cuda:3", "CUDA_VISIBLE_DEVICES=3")]
)
def test_no_such_device(wanted: str, remedy: str) -> None:
    with pytest.raises(OptionError, match=f"there is no device '{wanted}'") as caught:
        resolve_device(wanted)
    assert remedy in caught.value.remedy
