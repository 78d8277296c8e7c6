"""A model whose group-wise quantized layers lie packed on the disk: two 4-bit codes a byte, float scales, zero points or offsets.

``packed.safetensors``: the tensors of the model under its own names. A packed layer has ``.packed`` (uint8: codes in order, the
first of two in the high half), ``.scale`` and, where there is one, ``.shift`` (float32 [d_out, d_in/g]; nn/groups.py says what
they mean) in place of ``.weight``. ``packed.json``: of every packed layer its kind, group size and shape; further names of tied
tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from peftlab.errors import RecordError
from peftlab.nn.groups import BITS, BOOKS, Groups, unpack
from peftlab.nn.packed import PackedLinear
from peftlab.nn.roles import linear_shape

WEIGHTS, CONFIG = "packed.safetensors", "packed.json"
_VERSION = 1
_REMEDY = "export it again with `peftlab export --packed`"


def packed_layers(module: nn.Module) -> dict[str, PackedLinear]:
    """Name -> layer."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, PackedLinear)}


def write_packed(module: nn.Module, folder: Path) -> None:
    """Write the model's tensors, whatever it holds packed as it is."""
    layers = {
        name: {
            "kind": layer.kind,
            "group_size": layer.group_size,
            "d_in": layer.in_features,
            "d_out": layer.out_features,
            "transposed": layer.transposed,
        }
        for name, layer in packed_layers(module).items()
    }
    state, tied = module.state_dict(), _tied(module)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if name not in tied}
    save_file(tensors, folder / WEIGHTS)
    content = {"version": _VERSION, "layers": layers, "tied": tied}
    (folder / CONFIG).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _tied(module: nn.Module) -> dict[str, str]:
    """Further names of parameters that a model has once (input and output embedding of GPT-2) -> the first name."""
    first = {id(parameter): name for name, parameter in module.named_parameters()}
    every = module.named_parameters(remove_duplicate=False)
    return {name: first[id(parameter)] for name, parameter in every if first[id(parameter)] != name}


def read_packed(folder: Path, module: nn.Module) -> nn.Module:
    """``module``, a model of the right architecture with any weights, filled in place with what :func:`write_packed` wrote.

    Raises:
        RecordError: a file is missing or damaged, or what it holds does not fit together or into the model.
    """
    (layers, tied), tensors = _content(folder / CONFIG), _tensors(folder / WEIGHTS)
    tensors |= {name: tensors[first] for name, first in tied.items() if first in tensors}
    for name, entry in layers.items():
        try:
            old = module.get_submodule(name)
        except AttributeError as error:
            raise _broken(folder / CONFIG, f"the model has no layer {name!r}") from error
        new = _layer(name, entry, tensors, folder)
        if linear_shape(old) != (new.in_features, new.out_features):
            raise _broken(folder / CONFIG, f"{name} is not a layer of {new.in_features} inputs and {new.out_features} outputs")
        new.bias = cast(nn.Parameter, old.bias)
        module.set_submodule(name, new.train(old.training))
    try:
        module.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        reason = [line.strip() for line in str(error).splitlines()][1:2]
        raise _broken(folder / WEIGHTS, f"the tensors do not fit the model: {' '.join(reason)[:200]}") from error
    return module.requires_grad_(False)


def _content(path: Path) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Packed layers, and further names of tensors."""
    try:
        content = json.loads(path.read_bytes())
        version, layers, tied = content["version"], dict(content["layers"]), dict(content.get("tied", {}))
    except FileNotFoundError as error:
        raise _broken(path, "there is no such file") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(path, f"damaged: {str(error).splitlines()[0]}") from error
    if version != _VERSION:
        raise RecordError(f"format {version} is not known here", where=str(path), remedy="use the peftlab that wrote it")
    return layers, tied


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _broken(path, f"not readable as safetensors: {str(error).splitlines()[0]}") from error


def _layer(name: str, entry: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], folder: Path) -> PackedLinear:
    """The layer without its bias, every shape checked against the configuration."""
    try:
        kind, g, d_in, d_out = entry["kind"], int(entry["group_size"]), int(entry["d_in"]), int(entry["d_out"])
        transposed = bool(entry["transposed"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(folder / CONFIG, f"{name}: {error!r}") from error
    if kind not in BITS or min(g, d_in, d_out) < 1 or d_in % g:
        raise _broken(folder / CONFIG, f"{name}: {kind} with groups of {g} of {d_in} inputs is no scheme")
    codes, scale, shift = (tensors.get(f"{name}.{part}") for part in ("packed", "scale", "shift"))
    wanted = -(-BITS[kind] * d_out * d_in // 8)
    if codes is None or codes.dtype != torch.uint8 or codes.shape != (wanted,):
        found = "none" if codes is None else f"{codes.dtype} {list(codes.shape)}"
        raise _broken(folder / WEIGHTS, f"{name}.packed must be {wanted} bytes of codes, found {found}")
    for part, statistic in (("scale", scale), ("shift", shift)):
        if statistic is None and part == "shift" and kind in BOOKS:
            continue
        if statistic is None or statistic.dtype != torch.float32 or statistic.shape != (d_out, d_in // g):
            found = "none" if statistic is None else f"{statistic.dtype} {list(statistic.shape)}"
            raise _broken(folder / WEIGHTS, f"{name}.{part} must be float32 [{d_out}, {d_in // g}], found {found}")
        if not bool(statistic.isfinite().all()):
            raise _broken(folder / WEIGHTS, f"{name}.{part} is not finite")
    assert scale is not None
    layer = PackedLinear(Groups(kind, unpack(codes, BITS[kind], (d_out, d_in)), scale, shift), None)
    layer.transposed = transposed
    return layer


def _broken(path: Path, what: str) -> RecordError:
    return RecordError(what, where=str(path), remedy=_REMEDY)
