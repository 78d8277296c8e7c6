"""What adapters share that are no PEFT tuners: training the backbone's own parameters, and the file format."""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.errors import DidNothing, RecordError
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.roles import Site

WEIGHTS, CONFIG = "adapter_weights.safetensors", "peftlab_adapter.json"


class InPlace(Adapter):
    """Base of the adapters that choose which of the backbone's own parameters train."""

    @abstractmethod
    def trains(self, parameter_name: str, backbone: Backbone) -> bool:
        """Whether a parameter outside the head is trained."""

    def count(self, backbone: Backbone, sites: Sequence[Site] = (), ranks: Mapping[str, int] | None = None) -> int:
        named = backbone.module.named_parameters()
        return sum(p.numel() for n, p in named if not backbone.in_head(n) and self.trains(n, backbone))

    def added(self, backbone: Backbone, sites: Sequence[Site] = (), ranks: Mapping[str, int] | None = None) -> int:
        return 0

    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        for name, parameter in backbone.module.named_parameters():
            parameter.requires_grad_(backbone.in_head(name) or self.trains(name, backbone))
        own = frozenset(name for name, _ in backbone.module.named_parameters())
        adapted = Adapted(module=backbone.module, backbone=backbone, adapter=self, own_parameters=own)
        if not adapted.trainable():
            raise DidNothing(
                f"{self.name!r} trains no parameter here", where=backbone.name, remedy="choose an adapter that adds some"
            )
        return adapted

    def merge(self, adapted: Adapted) -> nn.Module:
        return restore_conv1d(make_dense(copy.deepcopy(adapted.module)))

    def save(self, adapted: Adapted, folder: Path) -> None:
        save_tensors(adapted, folder)

    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        return load_tensors(self.attach(backbone, seed=0), folder)


def save_tensors(adapted: Adapted, folder: Path) -> None:
    """What was learnt under its own names in the adapted model, and a config that names the backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: t.detach().contiguous() for n, t in adapted.learnt().items()}, folder / WEIGHTS)
    config = {"adapter": adapted.adapter.spec(), "base_model_name_or_path": adapted.backbone.name}
    (folder / CONFIG).write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def saved_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors that :func:`save_tensors` wrote.

    Raises:
        RecordError: unreadable.
    """
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise RecordError(f"no readable adapter: {error}", where=str(folder / WEIGHTS), remedy="export it again") from error


def load_tensors(adapted: Adapted, folder: Path) -> nn.Module:
    """The freshly attached model with what :func:`save_tensors` wrote.

    Raises:
        RecordError: unreadable, or not the tensors of this adapter on this backbone.
    """
    saved, wanted = saved_tensors(folder), adapted.learnt()
    shapes_fit = saved.keys() == wanted.keys() and all(saved[n].shape == p.shape for n, p in wanted.items())
    if not shapes_fit:
        raise RecordError(
            "the saved tensors are not those of this adapter", where=str(folder), remedy="load it on its own backbone"
        )
    for name, tensor in wanted.items():
        tensor.data.copy_(saved[name])
    return adapted.module
