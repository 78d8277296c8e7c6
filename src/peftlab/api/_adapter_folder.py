"""A PEFT adapter's folder, looked at before anything is loaded: whether it is one, and whether it was made for this backbone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from peftlab.backbones.contract import Backbone
from peftlab.errors import DataError, RecordError

CONFIG, WEIGHTS, HEAD = "adapter_config.json", "adapter_model.safetensors", "head.safetensors"
_PREFIX = "base_model.model."
#: how the names of quantized models on the hub say so
_QUANTIZED = re.compile(
    r"(?<![a-z0-9])(bnb|gptq|awq|hqq|aqlm|eetq|nf4|fp4|int[2348]|w[48]a16|[2348]-?bits?)(?![a-z0-9])", re.IGNORECASE
)


def adapter_files(folder: Path) -> list[Path]:
    """The files that make the adapter.

    Raises:
        DataError: the folder holds no adapter; what it does hold is named where that is known.
    """
    if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
        return [folder / name for name in (CONFIG, WEIGHTS, HEAD) if (folder / name).is_file()]
    absent = next(name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file())
    what, remedy = _found_instead(folder, absent)
    raise DataError(what, where=str(folder), remedy=remedy)


def _found_instead(folder: Path, absent: str) -> tuple[str, str]:
    """(what is wrong, what to do)."""
    below = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
    if below:
        return f"there is no {absent}, but an adapter below", f"name {below[0]} (PEFT makes a folder of each adapter's name)"
    if (folder / "adapter_model.bin").is_file():
        what = "its weights are pickled (adapter_model.bin), which could run code and are never read"
        return what, "load it where it was trained, and save it again with PEFT's save_pretrained, which writes safetensors"
    if (folder / "config.json").is_file():
        remedy = f"name the folder that PEFT's save_pretrained wrote before the merge; it holds {CONFIG}"
        return f"there is no {absent}: this is a whole model, no adapter", remedy
    return f"there is no {absent}", "name the folder that PEFT's save_pretrained wrote"


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name of each of the adapter's tensors, as in the backbone -> its shape."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        names = [key for key in file.keys() if key.startswith(_PREFIX)]  # noqa: SIM118 (no mapping)
        return {key.removeprefix(_PREFIX): tuple(file.get_slice(key).get_shape()) for key in names}


def check_made_for(folder: Path, backbone: Backbone, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Layers and head are those of the backbone.

    Raises:
        RecordError: a layer that the backbone does not have, or a head for another number of classes.
    """
    layers = {name for name, _ in backbone.module.named_modules() if name}
    for key in shapes:
        layer, rest = _place(key, layers)
        if not layer or len(rest) > 2:  # what stands behind a layer is at most lora_A.weight
            base = read_config(folder).get("base_model_name_or_path")
            named = f"its {CONFIG} says {base!r}; " if base else ""
            raise RecordError(
                f"made for another model: it adapts {key!r}, and {backbone.name} has no such layer",
                where=str(folder),
                remedy=f"{named}import it into a study whose backbone is the model that it was trained on",
            )
    wanted = backbone.module.get_submodule(backbone.head).state_dict() if backbone.head else {}
    for name, value in wanted.items():
        there = shapes.get(f"{backbone.head}.{name}")
        if there is not None and there != tuple(value.shape):
            raise RecordError(
                f"its head {backbone.head!r} has {there[0]} outputs, and the study's task {value.shape[0]} classes",
                where=str(folder),
                remedy="import it into a study of the task that it was trained on, with the same classes",
            )


def _place(key: str, layers: set[str]) -> tuple[str, list[str]]:
    """(the innermost layer that a tensor belongs to, what its name has behind it)."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in layers:
            return ".".join(parts[:length]), parts[length:]
    return "", parts


def read_config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration.

    Raises:
        DataError: it is no JSON object.
    """
    try:
        found = json.loads((folder / CONFIG).read_bytes())
    except ValueError as error:
        raise DataError(f"is no JSON: {error}", where=str(folder / CONFIG), remedy="copy the adapter again") from error
    if not isinstance(found, dict):
        raise DataError("is no JSON object", where=str(folder / CONFIG), remedy="copy the adapter again")
    return found


def other_base(folder: Path, backbone: str) -> str | None:
    """The adapter's own word for its base, where that is another than the study's; the same folder may lie elsewhere."""
    said = read_config(folder).get("base_model_name_or_path")
    if not isinstance(said, str) or not said:
        return None
    return said if _last(said) != _last(backbone) else None


def quantized_base(folder: Path) -> str:
    """What in the adapter's configuration says that its base was quantized; empty: PEFT's files seldom tell."""
    config = read_config(folder)
    name = str(config.get("base_model_name_or_path") or "")
    if found := _QUANTIZED.search(_last(name)):
        return f"its base is called {name!r}, with {found[0]!r}"
    if config.get("init_lora_weights") == "loftq":
        return "it was begun by LoftQ"
    return "it is a QA-LoRA" if config.get("use_qalora") else ""


def _last(name: str) -> str:
    """``vit-nano`` of ``bundled:vit-nano`` and of ``/models/vit-nano/``."""
    return name.partition("@")[0].rstrip("/").replace(":", "/").rpartition("/")[2]
