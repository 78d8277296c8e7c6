"""timm models, from a local folder or the hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from peftlab.backbones._files import channels, hash_folder, read_json, require_safetensors
from peftlab.backbones._hints import fitting
from peftlab.backbones.contract import Backbone, BackboneSource
from peftlab.errors import BackboneError, nearest
from peftlab.nn.head import initialise_head
from peftlab.nn.seeding import seeded
from peftlab.tasks.contract import Head, Preprocessing

_PREFIXES = ("timm/", "timm:")

_HEADS: tuple[Head, ...] = ("image-classification",)
_ARCHITECTURE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_-]+)?")
#: options of timm.create_model that load other weights, from files or the hub, or make another kind of module
_LEADING_ELSEWHERE = frozenset(
    "pretrained pretrained_cfg pretrained_cfg_overlay pretrained_strict checkpoint_path cache_dir model_name "
    "features_only scriptable exportable no_jit kwargs".split()
)


def _folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if (path / "config.json").is_file() and "architecture" in read_json(path / "config.json") else None


class TimmBackbone(BackboneSource):
    """Any timm image model: ``timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k`` or a local folder.

    A folder holds ``model.safetensors`` with timm's parameter names and ``config.json`` with ``architecture``, ``num_classes``
    and, where needed, ``model_args`` (as ``timm.models.save_for_hf`` writes them). It is loaded strictly (every name and shape
    must fit) before the head is replaced.
    """

    name: ClassVar[str] = "timm"
    priority: ClassVar[int] = 20
    citation: ClassVar[str] = """@misc{wightman2019timm,
  author = {Wightman, Ross}, title = {PyTorch Image Models}, year = {2019}, publisher = {GitHub},
  howpublished = {\\url{https://github.com/huggingface/pytorch-image-models}}, doi = {10.5281/zenodo.4414861}
}"""

    @classmethod
    def accepts(cls, name: str) -> bool:
        return name.startswith(_PREFIXES) or _folder(name) is not None

    @classmethod
    def fingerprint(cls, name: str) -> str:
        folder = _folder(name)
        if folder is not None:
            return hash_folder(folder)
        from huggingface_hub import HfApi

        try:
            return str(HfApi().model_info(f"timm/{_architecture(name)}").sha)
        except Exception as error:
            raise _unreachable(name, error) from error

    @classmethod
    def preprocessing(cls, name: str, image_size: int | None = None) -> Preprocessing:
        folder = _folder(name)
        if folder is not None:
            raw = read_json(folder / "config.json")
            raw = {**raw, **raw.get("pretrained_cfg", {})}
            raw = {"mean": raw.get("mean", raw.get("input_mean")), "std": raw.get("std", raw.get("input_std")), **raw}
            native = raw.get("img_size") or raw.get("input_size", (3, 224, 224))[-1]
        else:
            import timm

            found = timm.get_pretrained_cfg(_architecture(name))
            if found is None:
                raise _unknown(name)
            raw = found.to_dict()
            native = raw["input_size"][-1]
        return Preprocessing(
            image_size=image_size or native,
            interpolation=raw.get("interpolation") or "bicubic",
            crop=float(raw.get("crop_pct") or 0.875),
            mean=channels(raw.get("mean")),
            std=channels(raw.get("std")),
        )

    @classmethod
    def load(
        cls,
        name: str,
        *,
        outputs: int,
        head: Head = "image-classification",
        image_size: int | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> Backbone:
        if head not in _HEADS:
            raise BackboneError(f"timm models cannot do {head}", where=name, remedy="choose a transformers backbone")
        folder = _folder(name)
        module = _from_folder(folder, image_size, device) if folder else _from_hub(name, image_size, device)
        with torch.device(device), seeded(0, "timm"):
            module.reset_classifier(outputs)  # pyright: ignore
        head_name = _head_name(module)
        initialise_head(module.get_submodule(head_name), seed)
        return Backbone(
            name=name,
            family=type(module).__name__,
            library="timm",
            module=module,
            head=head_name,
            outputs=lambda m, inputs: m(inputs["pixel_values"]),
            save=_save,
        )


def _architecture(name: str) -> str:
    return name.removeprefix(_PREFIXES[0]).removeprefix(_PREFIXES[1])


def _create(architecture: str, image_size: int | None, device: str, **options: Any) -> nn.Module:
    import timm

    size = {"img_size": image_size} if image_size else {}
    options = {**options, **size}
    try:
        with torch.device(device):
            return timm.create_model(architecture, **options)
    except RuntimeError as error:
        if "Unknown model" in str(error):
            raise _unknown(architecture) from error
        raise _unreachable(architecture, error) from error
    except TypeError as error:
        raise BackboneError(
            f"does not take these options: {error}", where=architecture, remedy="leave task.image_size out"
        ) from error


def _own_config(folder: Path) -> dict[str, Any]:
    """The folder's config, which may describe an architecture but lead to no other model or file.

    Raises:
        BackboneError: it does.
    """
    config = read_json(folder / "config.json")
    where, remedy = str(folder / "config.json"), "write the folder with timm.models.save_for_hf"
    architecture, arguments = config["architecture"], config.get("model_args", {})
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise BackboneError(f"{architecture!r} is no architecture of timm", where=where, remedy=remedy)
    if not isinstance(arguments, dict):
        raise BackboneError("model_args holds no options", where=where, remedy=remedy)
    if leading := sorted(_LEADING_ELSEWHERE & arguments.keys()):
        raise BackboneError(f"model_args.{leading[0]} may not be set by a folder", where=where, remedy=remedy)
    return config


def _from_folder(folder: Path, image_size: int | None, device: str) -> nn.Module:
    config = _own_config(folder)
    classes = config.get("num_classes", (config.get("pretrained_cfg") or {}).get("num_classes", 1000))
    with seeded(0, "timm"):  # initial values are drawn, then all replaced
        module = _create(config["architecture"], image_size, device, **{**config.get("model_args", {}), "num_classes": classes})
    _check_size(module, image_size, str(folder))
    if device == "meta":
        return module
    require_safetensors(folder)
    weights = folder / "model.safetensors"
    try:
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise BackboneError(
            f"not readable as safetensors: {error}", where=str(weights), remedy="copy the model folder again"
        ) from error
    if image_size and "pos_embed" in state and state["pos_embed"].shape != module.get_parameter("pos_embed").shape:
        from timm.layers.pos_embed import resample_abs_pos_embed

        grid = list(module.patch_embed.grid_size)  # pyright: ignore
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], grid, num_prefix_tokens=module.num_prefix_tokens)  # pyright: ignore
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BackboneError(
            f"the weights do not fit {config['architecture']}: {str(error).splitlines()[1].strip()[:200]}",
            where=str(weights),
            remedy="config.json and model.safetensors must belong together",
        ) from error
    return module


def _from_hub(name: str, image_size: int | None, device: str) -> nn.Module:
    try:
        with seeded(0, "timm"):
            module = _create(_architecture(name), image_size, device, pretrained=device != "meta")
    except BackboneError:
        raise
    except Exception as error:
        raise _unreachable(name, error) from error
    _check_size(module, image_size, name)
    return module


def _check_size(module: nn.Module, image_size: int | None, name: str) -> None:
    """timm would leave out the pixels beyond the last whole patch without a word."""
    patch = getattr(getattr(module, "patch_embed", None), "patch_size", (1, 1))
    if image_size and isinstance(patch, tuple) and any(image_size % edge for edge in patch):
        raise BackboneError(
            f"image_size {image_size} is not a multiple of its patch size {patch[0]}",
            where=name,
            remedy=fitting(image_size, patch[0]),
        )


def _head_name(module: nn.Module) -> str:
    """Dotted name of the classifier, which some families nest (``head.fc``)."""
    classifier = module.get_classifier()  # pyright: ignore
    if isinstance(classifier, tuple):
        raise BackboneError(
            "two heads (distilled DeiT) are not supported", where=type(module).__name__, remedy="use the undistilled model"
        )
    return next(name for name, child in module.named_modules() if child is classifier)


def _unknown(name: str) -> BackboneError:
    import timm

    return BackboneError(
        "timm has no such model", where=name, remedy=nearest(_architecture(name).split(".")[0], timm.list_models())
    )


def _unreachable(name: str, error: Exception) -> BackboneError:
    first = str(error).strip().split("\n")[0][:200]
    return BackboneError(
        f"cannot be loaded: {first}", where=name, remedy="check the name and the connection, or give a local folder"
    )


def _save(module: nn.Module, folder: Path) -> None:
    from timm.models import save_for_hf

    config: Mapping[str, Any] = {"num_classes": module.num_classes}  # pyright: ignore
    save_for_hf(module, str(folder), model_config=dict(config), safe_serialization=True)
