"""transformers models, from a local folder or the hub."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from peftlab.backbones._causal import logits, unpackable
from peftlab.backbones._files import channels, hash_folder, read_json, require_safetensors
from peftlab.backbones._hints import fitting, unreachable
from peftlab.backbones._texts import pad_token, text_preprocessing
from peftlab.backbones.contract import Backbone, BackboneSource
from peftlab.errors import BackboneError, PeftlabError
from peftlab.nn.head import initialise_head
from peftlab.nn.seeding import derive, seeded
from peftlab.tasks.contract import Head, Preprocessing, TextPreprocessing

AUTO = {
    "image-classification": "AutoModelForImageClassification",
    "sequence-classification": "AutoModelForSequenceClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "causal-lm": "AutoModelForCausalLM",
}
_KINDS = {"image-classification": "one of images, e.g. a ViT"}  #: head -> backbones that can have it
_HEADS = ("classifier", "score", "head", "fc", "qa_outputs")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w.-]+)?")
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def _folder(name: str) -> Path | None:
    path = Path(name).expanduser()
    return path if (path / "config.json").is_file() else None


class TransformersBackbone(BackboneSource):
    """Any AutoModelFor... of transformers: hub id (``facebook/deit-tiny-patch16-224``, ``id@revision``) or local folder.

    Only safetensors are read and no remote code is run; neither can be switched on from a study file.
    """

    name: ClassVar[str] = "transformers"
    priority: ClassVar[int] = 90
    citation: ClassVar[str] = """@inproceedings{wolf2020transformers,
  title = {Transformers: State-of-the-Art Natural Language Processing},
  author = {Wolf, Thomas and Debut, Lysandre and Sanh, Victor and others},
  booktitle = {Proceedings of EMNLP 2020: System Demonstrations},
  year = {2020}, pages = {38--45}, doi = {10.18653/v1/2020.emnlp-demos.6}
}"""

    @classmethod
    def accepts(cls, name: str) -> bool:
        folder = _folder(name)
        if folder is not None:
            return "model_type" in read_json(folder / "config.json")
        looks_local = name.startswith((".", "/", "~")) or Path(name).exists()
        return not looks_local and _HUB_ID.fullmatch(name) is not None

    @classmethod
    def fingerprint(cls, name: str) -> str:
        folder = _folder(name)
        if folder is not None:
            return hash_folder(folder)
        from huggingface_hub import HfApi

        repo, _, revision = name.partition("@")
        try:
            return str(HfApi().model_info(repo, revision=revision or None).sha)
        except Exception as error:
            raise unreachable(name, error) from error

    @classmethod
    def preprocessing(cls, name: str, image_size: int | None = None) -> Preprocessing:
        raw = _preprocessor_config(name)
        size = raw.get("crop_size") if raw.get("do_center_crop") else raw.get("size")
        native = _edge(size) or _edge(_config(name).get("image_size")) or 224
        resized = _edge(raw.get("size")) or native
        return Preprocessing(
            image_size=image_size or native,
            interpolation=_RESAMPLING.get(raw.get("resample", 3), "bicubic"),
            crop=min(1.0, native / resized),
            mean=channels(raw.get("image_mean")),
            std=channels(raw.get("image_std")),
        )

    @classmethod
    def text_preprocessing(cls, name: str, head: Head = "sequence-classification") -> TextPreprocessing:
        config = _config(name)
        found = text_preprocessing(name, config)
        return dataclasses.replace(found, unpackable=unpackable(name, config)) if head == "causal-lm" else found

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
        import transformers

        auto = getattr(transformers, AUTO[head])
        labels = {} if head == "causal-lm" else {"num_labels": outputs}
        missing: set[str] = set()
        module: Any
        try:
            with _quiet(transformers):
                if device == "meta":
                    module = _planned(auto, name, labels)
                else:
                    module, missing = _loaded(auto, name, labels)
        except PeftlabError:
            raise
        except Exception as error:  # OSError, ValueError, SafetensorError, ...: whatever a broken folder or connection brings
            if "Unrecognized configuration class" in str(error):
                what = f"transformers has no {AUTO[head]} of its kind"
                other = _KINDS.get(head, "one of texts, e.g. an encoder")
                raise BackboneError(what, where=name, remedy=f"use another backbone for this task: {other}") from error
            raise unreachable(name, error) from error
        if image_size:
            _resize_positions(module, image_size, name)
        if head == "sequence-classification" and getattr(module.config, "pad_token_id", None) is None:
            # By it causal models find a text's last token. Not before they are made: they would never train its embedding.
            module.config.pad_token_id = pad_token(module.config.to_dict())
        heads = [] if head == "causal-lm" else _heads(module)
        fresh = _fresh(missing, heads, name)
        head_name = heads[-1] if heads else ""
        for part in (*heads, *fresh):
            initialise_head(module.get_submodule(part), seed if part == head_name else derive(seed, part))
        return Backbone(
            name=name,
            family=str(module.config.model_type),
            library="transformers",
            module=module,
            head=head_name,
            outputs=OUTPUTS.get(head, logits),
            save=lambda m, folder: m.save_pretrained(folder),  # pyright: ignore
            fresh=(*heads[:-1], *fresh),
        )


def _where(name: str) -> dict[str, Any]:
    repo, _, revision = name.partition("@")
    folder = _folder(name)
    where = {"pretrained_model_name_or_path": folder or repo, "revision": None if folder else revision or None}
    return {**where, "trust_remote_code": False}


def _configuration(name: str, labels: Mapping[str, int]) -> Any:
    from transformers import AutoConfig

    options: dict[str, Any] = {**_where(name), **labels}
    config = AutoConfig.from_pretrained(**options)
    config.architectures = config.architectures or []  # transformers fails on None where a family has two classes (DeiT)
    return config


def _planned(auto: Any, name: str, labels: Mapping[str, int]) -> nn.Module:
    with torch.device("meta"):
        return auto.from_config(_configuration(name, labels))


def _loaded(auto: Any, name: str, labels: Mapping[str, int]) -> tuple[nn.Module, set[str]]:
    """The model, and the names of the tensors that its weights do not have (or have in another shape)."""
    folder = _folder(name)
    if folder is not None:
        require_safetensors(folder)
    with seeded(0, "transformers"):  # what is missing is drawn; the head is drawn again, from the study's seed
        module, report = auto.from_pretrained(
            **_where(name),
            config=_configuration(name, labels),
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    return module, {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}


def _heads(module: nn.Module) -> list[str]:
    """What stands beside the pretrained body (RoBERTa: classifier; DeBERTa: pooler, classifier), the output layer last."""
    body = getattr(module, "base_model_prefix", "")
    beside = [name for name, child in module.named_children() if name != body and any(True for _ in child.parameters())]
    if body not in dict(module.named_children()):
        beside = [name for name in beside if name in _HEADS]
    return sorted(beside, key=lambda name: name in _HEADS)


def _fresh(missing: set[str], heads: list[str], name: str) -> list[str]:
    """Poolers of the body that the weights lack. Anything else that is missing means: these are not the weights of this model."""
    inside = [key for key in sorted(missing) if not key.startswith(tuple(head + "." for head in heads))]
    poolers = dict.fromkeys(key[: match.end(1)] for key in inside if (match := re.match(r"(?:.*\.)?(pooler)\.", key)))
    lost = [key for key in inside if not key.startswith(tuple(pooler + "." for pooler in poolers))]
    if lost:
        raise BackboneError(
            f"the weights lack {len(lost)} tensors of the model, or have them in another shape: {', '.join(lost[:3])}",
            where=name,
            remedy="config.json and the weights must belong together",
        )
    return list(poolers)


def spans(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Start and end logits of every position, [B, T, 2]."""
    found = module(**inputs, return_dict=True)
    return torch.stack([found.start_logits, found.end_logits], dim=-1)


#: head -> what computes its outputs, where that is not plain logits
OUTPUTS: Mapping[Head, Callable[[nn.Module, Mapping[str, torch.Tensor]], torch.Tensor]] = {"question-answering": spans}


class _quiet:
    """transformers announces a fresh head as a warning at every load; here it is what was asked for."""

    def __init__(self, transformers: Any) -> None:
        self.logging = transformers.utils.logging

    def __enter__(self) -> None:
        self.before = self.logging.get_verbosity()
        self.logging.set_verbosity_error()
        self.logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self.logging.set_verbosity(self.before)


def _config(name: str) -> dict:
    folder = _folder(name)
    if folder is not None:
        return read_json(folder / "config.json")
    return read_json(_download(name, "config.json"))


def _preprocessor_config(name: str) -> dict:
    folder = _folder(name)
    if folder is not None:
        path = folder / "preprocessor_config.json"
        return read_json(path) if path.is_file() else {}
    return read_json(_download(name, "preprocessor_config.json"))


def _download(name: str, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    repo, _, revision = name.partition("@")
    try:
        return Path(hf_hub_download(repo, file, revision=revision or None))
    except Exception as error:
        raise unreachable(name, error) from error


def _edge(size: Any) -> int | None:
    if isinstance(size, Mapping):
        return size.get("shortest_edge") or size.get("height")
    return size if isinstance(size, int) else None


def _resize_positions(module: Any, image_size: int, name: str) -> None:
    """Resample learned position embeddings to another image size (bicubic, as timm does), class and distillation tokens kept."""
    native = getattr(module.config, "image_size", None)
    if native in (image_size, None):  # None: a convolutional network, which takes any size
        return
    embeddings = next((m for m in module.modules() if hasattr(m, "position_embeddings") and hasattr(m, "patch_embeddings")), None)
    positions = getattr(embeddings, "position_embeddings", None)
    if embeddings is None or not isinstance(positions, nn.Parameter):
        raise BackboneError(f"works at {native} px only", where=name, remedy=f"set task.image_size to {native} or leave it out")
    patch = module.config.patch_size
    if image_size % patch:
        raise BackboneError(
            f"image_size {image_size} is not a multiple of its patch size {patch}", where=name, remedy=fitting(image_size, patch)
        )
    from timm.layers.pos_embed import resample_abs_pos_embed

    old, new = (native // patch) ** 2, (image_size // patch) ** 2
    prefix = positions.shape[1] - old
    if positions.is_meta:
        resized = positions.new_empty(1, new + prefix, positions.shape[2])
    else:
        resized = resample_abs_pos_embed(positions.detach(), [image_size // patch] * 2, num_prefix_tokens=prefix)
    embeddings.position_embeddings = nn.Parameter(resized)
    embeddings.patch_embeddings.num_patches = new
    for part in (embeddings, embeddings.patch_embeddings):  # both check the size of their input, which one depends on the version
        if hasattr(part, "image_size"):
            part.image_size = (image_size, image_size)
    module.config.image_size = image_size
