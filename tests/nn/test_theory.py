"""The bounds of docs/theory.md: on random and tiny weights, and where they lie beside the repository, on real ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("theory_check", ROOT / "tools" / "theory_check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(3)) * 0.05


@pytest.mark.parametrize("kind", ["int4", "int8", "nf4", "fp4"])
@pytest.mark.parametrize("shape", [(48, 64), (96, 32), (5, 16)], ids=str)
def test_every_bound_holds_and_those_of_rank_are_reached(tool: ModuleType, kind: str, shape: tuple[int, int]) -> None:
    found = tool.check(gaussian(*shape), kind, 16)
    assert 0.9 < found.element <= 1 + 1e-4
    assert found.requantized <= 1 + 1e-4
    assert found.attained == pytest.approx(1, abs=1e-4) and found.attained_pooled == pytest.approx(1, abs=1e-4)
    assert found.codes_changed == 0 and found.merge < 1e-3
    assert found.pooled[4] <= found.unrestricted[4] and found.pooled[16] == pytest.approx(found.means, rel=1e-4)
    assert found.bits[0] == pytest.approx(found.bits[1])


def test_shares_are_those_of_singular_values(tool: ModuleType) -> None:
    weight = gaussian(48, 64)
    error = (weight - tool.quantize_groups(weight, 16, "int4").dequantize()).double().numpy()
    found = tool.check(weight, "int4", 16)
    values = np.linalg.svd(error, compute_uv=False) ** 2
    pooled = 16 * np.linalg.svd(error.reshape(48, 4, 16).mean(-1), compute_uv=False) ** 2
    for rank in (2, 4, 8):
        assert found.unrestricted[rank] == pytest.approx(values[:rank].sum() / values.sum(), rel=1e-4)
        assert found.pooled[rank] == pytest.approx(pooled[:rank].sum() / values.sum(), rel=1e-4)


def test_no_random_update_passes_the_bound(tool: ModuleType) -> None:
    """At its best length each; an update close to the best one comes close to the bound."""
    weight, random = gaussian(48, 64), torch.Generator().manual_seed(5)
    error = weight - tool.quantize_groups(weight, 16, "nf4").dequantize()
    bound, best = tool.check(weight, "nf4", 16).unrestricted[4], tool.truncated(error, 4)
    for share in (0.0, 0.1, 0.5, 1.0):
        noise = torch.randn(48, 4, generator=random) @ torch.randn(4, 64, generator=random)
        update = tool.truncated(best + share * best.norm() * noise / noise.norm(), 4)
        length = (error * update).sum() / update.square().sum()
        assert tool.cancelled(error, length * update) <= bound * (1 + 1e-5)


def test_errors_that_are_independent_leave_one_in_g_to_pooled_updates(tool: ModuleType) -> None:
    for group in (8, 32):
        found = tool.check(gaussian(256, 256), "int8", group)
        assert found.means == pytest.approx(1 / group, rel=0.05)
        assert found.noise == pytest.approx(1, rel=0.02)


def test_packed_int4_with_its_statistics_is_under_a_fifth_of_float32(tool: ModuleType) -> None:
    for shape in ((192, 192), (768, 192), (192, 768)):
        assert tool.check(gaussian(*shape), "int4", 32).bits[1] / 32 <= 0.20


@pytest.mark.slow
def test_the_document_quotes_what_the_command_prints(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not tool.WEIGHTS.is_file():
        pytest.skip("the weights are not beside the repository")
    monkeypatch.setattr(sys, "argv", ["theory_check.py"])
    assert tool.main() == 0
    assert capsys.readouterr().out.strip() in (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")


def test_without_weights_it_says_so(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["theory_check.py", "--weights", "nowhere.safetensors"])
    assert tool.main() == 0
    assert "nothing checked" in capsys.readouterr().err
