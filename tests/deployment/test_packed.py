"""What is written packed is read back to the bit, and nothing else is read at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftlab.deployment.packed import CONFIG, WEIGHTS, packed_layers, read_packed, write_packed
from peftlab.errors import RecordError
from peftlab.nn.groups import stored_bytes
from peftlab.nn.packed import PackedLinear
from peftlab.nn.quantized import make_dense, restore_conv1d

KINDS = ("int4", "int8", "nf4", "fp4")


def plain() -> nn.Sequential:
    """Sixteen inputs; the third layer has an odd number of codes."""
    return nn.Sequential(nn.Linear(16, 6), nn.Linear(6, 5, bias=False), nn.Linear(5, 3), nn.LayerNorm(3))


def packed(kind: Any, *, merged: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = plain()
        for i, g in ((0, 4), (1, 3), (2, 5)):
            layer = PackedLinear.of(model[i], g, kind)
            model[i] = layer.shifted(torch.randn(layer.scale.shape)) if merged else layer
    return model


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_read_back_to_the_bit(kind: str, merged: bool, tmp_path: Path) -> None:
    model, x = packed(kind, merged=merged), torch.randn(7, 16)
    write_packed(model, tmp_path)
    found = read_packed(tmp_path, plain())
    assert torch.equal(found(x), model(x))
    for name, layer in packed_layers(found).items():
        wanted = packed_layers(model)[name]
        assert (layer.kind, layer.group_size, layer.transposed) == (wanted.kind, wanted.group_size, wanted.transposed)
        assert torch.equal(layer.codes(), wanted.codes()) and layer.stored_bytes() == wanted.stored_bytes()
    assert not any(p.requires_grad for p in found.parameters())


@pytest.mark.parametrize("transposed", [[True, False, True], [False, True, False]])
def test_what_stands_for_a_conv1d_is_read_back_as_one(transposed: list[bool], tmp_path: Path) -> None:
    model = packed("int4")
    for layer, turned in zip(packed_layers(model).values(), transposed, strict=True):
        layer.transposed = turned
    write_packed(model, tmp_path)
    found = read_packed(tmp_path, plain())
    assert [layer.transposed for layer in packed_layers(found).values()] == transposed
    dense = restore_conv1d(make_dense(found))
    assert [type(dense.get_submodule(str(i))) for i in range(3)] == [Conv1D if turned else nn.Linear for turned in transposed]


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_is_as_small_as_the_formula_says(kind: str, tmp_path: Path) -> None:
    write_packed(packed(kind), tmp_path)
    codes = sum(stored_bytes(d_in, d_out, g, kind) for d_in, d_out, g in ((16, 6, 4), (6, 5, 3), (5, 3, 5)))
    floats = 4 * (6 + 3 + 3 + 3)  # two biases, the norm
    tensors = load_file(tmp_path / WEIGHTS)
    assert sum(t.nbytes for t in tensors.values()) == codes + floats
    assert not [name for name in tensors if name.endswith("weight") and not name.startswith("3")]


def edit_config(key: str, value: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text())
        content["layers"]["0"][key] = value
        (folder / CONFIG).write_text(json.dumps(content))

    return edit


def edit_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        new = change(tensors.pop(name).clone())
        save_file(tensors if new is None else {**tensors, name: new}, folder / WEIGHTS)

    return edit


def truncate(name: str, share: float) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[: int(share * (folder / name).stat().st_size)])


def garbage(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(b"\xff" * 64)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


BROKEN = {
    "no weights": (remove(WEIGHTS), "not readable as safetensors"),
    "no configuration": (remove(CONFIG), "no such file"),
    "truncated": (truncate(WEIGHTS, 0.9), "not readable as safetensors"),
    "truncated in the header": (truncate(WEIGHTS, 0.01), "not readable as safetensors"),
    "garbage": (garbage(WEIGHTS), "not readable as safetensors"),
    "configuration truncated": (truncate(CONFIG, 0.5), "damaged"),
    "configuration garbage": (garbage(CONFIG), "damaged"),
    "another version": (lambda folder: (folder / CONFIG).write_text('{"version": 9, "layers": {}}'), "format 9"),
    "a code too few": (edit_tensor("0.packed", lambda t: t[:-1]), "0.packed must be 48 bytes of codes, found torch.uint8 .47."),
    "codes of another type": (edit_tensor("0.packed", lambda t: t.to(torch.int8)), "must be 48 bytes"),
    "no codes": (edit_tensor("0.packed", lambda t: None), "found none"),
    "a scale too few": (edit_tensor("0.scale", lambda t: t[:, 1:].contiguous()), r"0.scale must be float32 \[6, 4\]"),
    "no zero points": (edit_tensor("0.shift", lambda t: None), "0.shift must be float32"),
    "half a scale": (edit_tensor("0.scale", torch.Tensor.half), "must be float32"),
    "not finite": (edit_tensor("0.shift", lambda t: t.fill_(float("nan"))), "0.shift is not finite"),
    "another kind": (edit_config("kind", "int5"), "no scheme"),
    "groups that do not divide": (edit_config("group_size", 5), "no scheme"),
    "no groups": (edit_config("group_size", 0), "no scheme"),
    "groups of another size": (edit_config("group_size", 8), "0.scale must be float32"),
    "another width": (edit_config("d_out", 7), "must be 56 bytes"),
    "no number": (edit_config("d_in", "x"), "ValueError"),
    "no such layer": (
        lambda folder: (folder / CONFIG).write_text((folder / CONFIG).read_text().replace('"0": {', '"encoder.0": {')),
        "no layer 'encoder.0'",
    ),
    "a bias of another size": (
        edit_tensor("0.bias", lambda t: t[1:].contiguous()),
        "do not fit the model: size mismatch for 0.bias",
    ),
    "a tensor too few": (edit_tensor("3.weight", lambda t: None), "do not fit the model: Missing key.*3.weight"),
}


@pytest.mark.parametrize("way", BROKEN)
def test_broken_files_are_refused(way: str, tmp_path: Path) -> None:
    write_packed(packed("int4"), tmp_path)
    breaks, message = BROKEN[way]
    breaks(tmp_path)
    with pytest.raises(RecordError, match=message) as caught:
        read_packed(tmp_path, plain())
    assert caught.value.where and caught.value.remedy


def test_a_model_of_another_shape_is_refused(tmp_path: Path) -> None:
    write_packed(packed("int4"), tmp_path)
    other = plain()
    other[0] = nn.Linear(16, 12)
    with pytest.raises(RecordError, match="0 is not a layer of 16 inputs and 6 outputs"):
        read_packed(tmp_path, other)
