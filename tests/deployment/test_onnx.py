"""Packed layers in onnxruntime, which knows nothing of our packing, give what they give here."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from peftlab.errors import MissingExtra, OptionError, RecordError
from peftlab.nn.packed import PackedLinear

onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

from peftlab.deployment.onnx_engine import OnnxModel  # noqa: E402
from peftlab.deployment.onnx_graph import write_onnx  # noqa: E402
from peftlab.deployment.onnx_layers import block_size  # noqa: E402

#: (kind, group size, merged into): every operator, groups of one block and of several, with and without offsets
LAYERS = [
    ("int4", 16, False), ("int4", 96, True), ("int4", 48, True),
    ("int8", 32, False), ("int8", 48, True),
    ("nf4", 16, False), ("nf4", 32, True), ("nf4", 96, True),
    ("fp4", 48, False), ("fp4", 16, True),
]  # fmt: skip


class Side(nn.Module):
    """All layers beside one another, so that one file tests them all."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList()
        for i, (kind, g, merged) in enumerate(LAYERS):
            layer = PackedLinear.of(nn.Linear(96, 24, bias=i % 2 == 0), g, kind)
            self.parts.append(layer.shifted(0.3 * torch.randn(layer.scale.shape)) if merged else layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([part(x) for part in self.parts], dim=1)


def call(module: nn.Module, inputs: Any) -> Any:
    return module(inputs["x"])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """The file, inputs [4, 3, 96], and our outputs."""
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model, x = Side().eval(), torch.randn(4, 3, 96)
    with torch.inference_mode():
        wanted = model(x)
    write_onnx(model, call, {"x": torch.zeros(2, 3, 96)}, path, metadata={"label_names": ["ä", "b"]})
    return path, x.numpy(), wanted.numpy()


@pytest.mark.parametrize("i", range(len(LAYERS)), ids=lambda i: "-".join(map(str, LAYERS[i])))
def test_outputs_are_ours_to_float_rounding(written: tuple[Path, np.ndarray, np.ndarray], i: int) -> None:
    path, x, wanted = written
    found = OnnxModel(path, threads=1).logits(x=x)
    assert found.shape == wanted.shape
    assert np.abs(found[:, i] - wanted[:, i]).max() <= 3e-6 * np.abs(wanted[:, i]).max()


def test_any_number_of_rows(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, x, wanted = written
    model = OnnxModel(path, threads=1)
    for rows in (1, 2, 4):
        assert np.allclose(model.logits(x=x[:rows]), wanted[:rows], rtol=1e-4, atol=1e-4)


def test_weights_stay_packed_and_the_file_tells_nothing_of_this_machine(written: tuple[Path, np.ndarray, np.ndarray]) -> None:
    path, *_ = written
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("MatMulNBits") == 5 and kinds.count("MatMulBnb4") == 5
    assert not any(entry.metadata_props or entry.doc_string for entry in (*model.graph.node, *model.graph.value_info))
    floats = [
        t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT and tuple(t.dims) in ((24, 96), (96, 24))
    ]
    assert not floats
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    assert OnnxModel(path).metadata == {"label_names": ["ä", "b"]}


def test_8_bit_activations_are_close_and_not_exact(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer, x = PackedLinear.of(nn.Linear(96, 24), 32, "int4"), torch.randn(8, 96)
    wanted = layer(x).detach().numpy()
    write_onnx(nn.Sequential(layer), call, {"x": torch.zeros(2, 96)}, tmp_path / "m.onnx", activations="int8")
    difference = np.abs(OnnxModel(tmp_path / "m.onnx").logits(x=x.numpy()) - wanted).max() / np.abs(wanted).max()
    assert 1e-5 < difference < 0.03


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_8_bit_activations_with_a_code_book_are_refused(kind: Any, tmp_path: Path) -> None:
    model = nn.Sequential(PackedLinear.of(nn.Linear(32, 4), 32, kind))
    with pytest.raises(OptionError, match="float inputs only"):
        write_onnx(model, call, {"x": torch.zeros(2, 32)}, tmp_path / "m.onnx", activations="int8")


def test_8_bit_activations_of_a_float_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="nothing in this model is packed"):
        write_onnx(nn.Sequential(nn.Linear(4, 4)), call, {"x": torch.zeros(2, 4)}, tmp_path / "m.onnx", activations="int8")


@pytest.mark.parametrize("g", [1, 8, 12, 24, 100])
def test_groups_that_the_engine_does_not_know_are_refused(g: int) -> None:
    with pytest.raises(OptionError, match=f"groups of {g} inputs"):
        block_size(g)


@pytest.mark.parametrize(("g", "block"), [(16, 16), (48, 16), (64, 64), (96, 32), (256, 256), (512, 256), (768, 256)])
def test_the_largest_block_is_taken(g: int, block: int) -> None:
    assert block_size(g) == block


@pytest.mark.parametrize("content", [b"", b"\x08\x0a garbage", None])
def test_a_broken_file_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecordError, match="onnxruntime cannot load it"):
        OnnxModel(path)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, name, None)  # as if it were not installed
            with pytest.raises(MissingExtra, match=f"{name} cannot be imported") as caught:
                write_onnx(nn.Linear(4, 4), call, {"x": torch.zeros(2, 4)}, tmp_path / "m.onnx")
            assert ".[onnx]" in caught.value.remedy and caught.value.exit_code == 8
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtra):
        OnnxModel(tmp_path / "m.onnx")


@pytest.mark.slow
def test_a_text_model_of_two_inputs(tmp_path: Path) -> None:
    """BERT's classifier, with a mask; the length of a row is that of the example."""
    from transformers import BertConfig, BertForSequenceClassification

    from peftlab.backbones.resolve import source_of
    from peftlab.registry import create

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertForSequenceClassification(BertConfig(vocab_size=64, max_position_embeddings=32, **sizes)).save_pretrained(tmp_path)
    backbone = source_of(str(tmp_path)).load(str(tmp_path), outputs=3, head="sequence-classification")
    create("quantizer", {"name": "groupwise", "type": "int4", "group_size": 16}).convert(backbone)
    mask = torch.ones(3, 12, dtype=torch.int64)
    mask[1, 7:] = 0
    inputs = {"input_ids": torch.arange(36).view(3, 12), "attention_mask": mask}
    with torch.inference_mode():
        wanted = backbone.outputs(backbone.module.eval(), inputs).numpy()
    write_onnx(backbone.module, backbone.outputs, inputs, tmp_path / "m.onnx")
    found = OnnxModel(tmp_path / "m.onnx", threads=1).logits(**{name: tensor.numpy() for name, tensor in inputs.items()})
    assert np.abs(found - wanted).max() <= 1e-5 * np.abs(wanted).max()
