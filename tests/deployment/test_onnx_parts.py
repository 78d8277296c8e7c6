"""Few rows are multiplied in integers, as exactly as floats are, where the kernels of onnxruntime round as that takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftlab.nn.packed import PackedLinear

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

from onnx import numpy_helper  # noqa: E402

from peftlab.deployment.onnx_engine import OnnxModel  # noqa: E402
from peftlab.deployment.onnx_graph import write_onnx  # noqa: E402
from peftlab.deployment.onnx_parts import DOMAIN, FEW, worth_splitting  # noqa: E402

KINDS = {"int4": 4, "int8": 8}
D_IN, D_OUT, GROUP = 768, 352, 96  # blocks of 32, three to a group


def call(module: nn.Module, inputs: Any) -> Any:
    return module(inputs["x"])


def packed(kind: Any) -> PackedLinear:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layer = PackedLinear.of(nn.Linear(D_IN, D_OUT), GROUP, kind)
        return layer.shifted(0.3 * torch.randn(layer.scale.shape))


def inputs() -> dict[str, np.ndarray]:
    """[rows, D_IN] each; as many rows as the smaller of the two limits."""
    random = np.random.default_rng(4)
    x = random.standard_normal((FEW[4].rows, D_IN))
    blocks = np.repeat(random.random((len(x), D_IN // 32)) < 0.3, 32, axis=1)
    return {
        "normal": x,
        "all of one size": np.sign(x),
        "rectified": np.maximum(x, 0),
        "heavy tails": x**5,
        "blocks of zeros": x * blocks,
        "one input": x * (np.arange(D_IN) == 77),
        "small": 1e-20 * x,
        "large": 1e20 * x,
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    for kind in KINDS:
        write_onnx(nn.Sequential(packed(kind)), call, {"x": torch.zeros(2, D_IN)}, folder / kind)
    return {kind: folder / kind for kind in KINDS}


@pytest.fixture(scope="module")
def floats(files: dict[str, Path]) -> dict[str, OnnxModel]:
    """The same files with a trial that cannot succeed."""
    return {kind: OnnxModel(changed(path, "wanted", -1.0), threads=1) for kind, path in files.items()}


def changed(path: Path, name: str, value: float) -> Path:
    """A copy of a file with another value of a constant of its function."""
    model = onnx.load(path)
    (constant,) = [node for node in model.functions[0].node if node.output[0] == name]
    (attribute,) = constant.attribute
    if attribute.HasField("t"):
        array = numpy_helper.to_array(attribute.t).copy()
        array[-1] = value
        attribute.t.CopyFrom(numpy_helper.from_array(array))
    else:
        attribute.f = value
    target = path.with_name(f"{path.name}-{name}-{value}")
    onnx.save(model, target)
    return target


@pytest.mark.parametrize("what", inputs())
@pytest.mark.parametrize("kind", KINDS)
def test_as_exact_as_floats(files: dict[str, Path], kind: str, what: str) -> None:
    x = inputs()[what].astype(np.float32)
    layer = packed(kind).double()
    wanted = layer(torch.from_numpy(x).double()).detach().numpy()
    found = OnnxModel(files[kind], threads=1).logits(x=x)
    assert np.sqrt(np.mean((found - wanted) ** 2) / np.mean(wanted**2)) <= 5e-7  # two of the three parts: 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_integers_up_to_few_rows_and_floats_above(files: dict[str, Path], floats: dict[str, OnnxModel], kind: str) -> None:
    few = FEW[KINDS[kind]].rows
    x = np.random.default_rng(1).standard_normal((few + 1, D_IN)).astype(np.float32)
    model = OnnxModel(files[kind], threads=1)
    for rows in (1, few):
        assert not np.array_equal(model.logits(x=x[:rows]), floats[kind].logits(x=x[:rows]))
    assert np.array_equal(model.logits(x=x), floats[kind].logits(x=x))


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 1.0), ("pair", 16.0), ("pair", 15.94)], ids=["bfloat16", "rows", "rows, shifted"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_that_round_otherwise_multiply_floats(
    files: dict[str, Path], floats: dict[str, OnnxModel], kind: str, name: str, value: float
) -> None:
    """The scale of the trial as bfloat16 has it, and its smaller input as rounded in steps of the larger one's row."""
    x = inputs()["normal"].astype(np.float32)
    model = OnnxModel(changed(files[kind], name, value), threads=1)
    assert np.array_equal(model.logits(x=x), floats[kind].logits(x=x))


@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_kept_once(files: dict[str, Path], kind: str) -> None:
    model = onnx.load(files[kind])
    assert [node.domain for node in model.graph.node].count(DOMAIN) == 1 and len(model.functions) == 1
    assert files[kind].stat().st_size < D_IN * D_OUT * KINDS[kind] // 8 + 80_000


@pytest.mark.parametrize(("shape", "used"), [((2, 1, D_IN), True), ((2, 17, D_IN), False)], ids=str)
def test_rows_that_an_example_has(tmp_path: Path, shape: tuple[int, ...], used: bool) -> None:
    layer = packed("int4")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    wanted = layer(x).detach().numpy()
    write_onnx(nn.Sequential(layer), call, {"x": torch.zeros(shape)}, tmp_path / "m")
    assert bool(onnx.load(tmp_path / "m").functions) == used
    found = OnnxModel(tmp_path / "m", threads=1).logits(x=x.numpy())
    assert found.shape == wanted.shape and np.abs(found - wanted).max() <= 3e-6 * np.abs(wanted).max()


def test_where_it_is_worth_it() -> None:
    weights, rows = FEW[4].weights, FEW[4].rows
    assert worth_splitting(4, weights, ()) and worth_splitting(4, weights, (2, rows // 2))
    assert not worth_splitting(4, weights - 1, ()) and not worth_splitting(4, weights, (rows + 1,))
    assert worth_splitting(8, weights - 1, (rows + 1,))
    assert not worth_splitting(4, weights, (torch.empty(1).numel,))  # an axis without a number
