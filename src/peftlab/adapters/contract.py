"""What an adapter is: which tensors are trained on top of the frozen backbone, and how they fold into it.

Shape legend: d_in, d_out of the adapted linear layer, r its rank.
"""

from __future__ import annotations

import contextlib
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from peftlab.backbones.contract import Backbone
from peftlab.nn.fused_layers import Fused
from peftlab.nn.hooks import TrainingHook
from peftlab.nn.last_block import LastBlock
from peftlab.nn.low_rank import LowRank, product_norm
from peftlab.nn.modes import moving
from peftlab.nn.parts import Part
from peftlab.nn.roles import Site
from peftlab.quantizers.contract import Quantizer
from peftlab.registry import Component


@dataclasses.dataclass(slots=True)
class Adapted:
    """A backbone with an adapter on it, ready to train.

    ``module`` is what is called; exactly the parameters with ``requires_grad`` are trained.
    """

    module: nn.Module
    backbone: Backbone
    adapter: Adapter
    sites: Sequence[Site] = ()
    ranks: Mapping[str, int] = dataclasses.field(default_factory=dict)  #: site name -> rank
    hooks: list[TrainingHook] = dataclasses.field(default_factory=list)
    seed: int = 0  #: of the run, for hooks that draw random numbers
    own_parameters: frozenset[str] = frozenset()  #: trainable parameters that are the backbone's own, not added ones
    fused: Fused = dataclasses.field(default_factory=Fused)  #: which adapted layers compute base and update together
    last: LastBlock | str = ""  #: its last block, in training and evaluation computed for the row that is read; or why not

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, in a fixed order."""
        return {n: p for n, p in self.module.named_parameters() if p.requires_grad}

    def learnt(self) -> dict[str, torch.Tensor]:
        """Name -> all that training changes, in a fixed order: what is trained, and running statistics (nn/modes.py)."""
        return {**self.trainable(), **moving(self.module)}

    def reading(self, module: nn.Module | None = None) -> contextlib.AbstractContextManager[None]:
        """Inside, ``module`` (a model of the same structure; None: the backbone's) computes of its last block what is read."""
        return (
            self.last.only_read(module or self.backbone.module) if isinstance(self.last, LastBlock) else contextlib.nullcontext()
        )

    def rank_of(self, site: str) -> int:
        """The rank that training began with at a site; 0 where the adapter has none."""
        return self.ranks.get(site, self.adapter.given_rank)

    def update_norms(self) -> dict[str, float]:
        """Site name -> ||dW|| now (:meth:`Adapter.update_norms`)."""
        return self.adapter.update_norms(self)

    def vectors(self) -> frozenset[str]:
        """Names of the trained tensors that are vectors although they have more than one dimension.

        What the adapter says of its own (:attr:`Adapter.vectors`); of the backbone's those of three and more dimensions of which
        one at most is larger than 1: class and distillation tokens, [1, 1, d].
        """
        said = self.adapter.vectors
        return frozenset(
            name
            for name, p in self.trainable().items()
            if not said.isdisjoint(name.split("."))
            or (name in self.own_parameters and p.dim() > 2 and sum(size > 1 for size in p.shape) <= 1)
        )

    def is_head(self, parameter_name: str) -> bool:
        """Whether a parameter belongs to the classification head."""
        return any(f".{name}." in f".{parameter_name}" for name in self.backbone.heads)


class Adapter(Component, ABC):
    """A configured adapter."""

    has_rank: ClassVar[bool] = False  #: an allocator can decide its ranks
    has_triplets: ClassVar[bool] = False  #: its update is a sum of rank-1 parts (nn/triplets.py) that can be switched off
    mergeable: ClassVar[bool] = True
    zero_at_start: ClassVar[bool] = True  #: outputs equal the backbone's before the first update
    merge_tolerance: ClassVar[float] = 1e-4  #: largest relative difference merged / unmerged, float32
    takes_slices: ClassVar[bool] = False  #: adapts slices of fused layers as layers of their own (nn/surgery.py)

    @property
    def given_rank(self) -> int:
        """The rank that its options give to every site; 0 where there is no such option."""
        return getattr(self, "rank", 0)

    @property
    def unstackable(self) -> str:
        """Why its runs are not computed together with others (training/stack.py); empty where they can be."""
        return ""

    @property
    def vectors(self) -> frozenset[str]:
        """Names, as parts of a parameter's, of its tensors that are scales or biases in the shape of a matrix.

        Weight decay leaves them alone: at zero a scale is not without effect, it takes away what it scales. Factors of an update
        are none, whatever their shape: at zero the update is gone.
        """
        return frozenset()

    @property
    def reads_frozen(self) -> bool:
        """Whether saving looks at frozen weights, which have to be whole then."""
        return False

    @property
    def needs_float(self) -> str:
        """Why it cannot stand on quantized weights (it changes them); empty where it leaves them as they are."""
        return ""

    def fitted(self, quantizer: Quantizer, where: str = "adapter") -> Adapter:
        """This adapter as it is used on weights that ``quantizer`` stores.

        Raises:
            OptionError: the two do not go together.
        """
        return self

    def sites(self, backbone: Backbone) -> list[Site]:
        """The linear layers (or slices of fused ones) that are adapted. Empty where the question does not arise.

        Raises:
            OptionError: a pattern that matches nothing, a rank above min(d_in, d_out).
        """
        return []

    @property
    def resizable(self) -> bool:
        """Whether :meth:`low_rank` tells its factors, whose ranks may change during training."""
        return False

    @property
    def initialisable(self) -> bool:
        """Whether the factors of :meth:`low_rank` may be given other initial values, B other than zero included."""
        return False

    def low_rank(self, adapted: Adapted) -> dict[str, LowRank]:
        """Site name -> its update as s B A; empty where the adapter is not resizable."""
        return {}

    def parts(self, adapted: Adapted) -> dict[str, Part]:
        """Site name -> its trained tensors as metrics of importance see them: here the factors of :meth:`low_rank`, if any."""
        found = self.low_rank(adapted)
        return {
            site.name: Part(tensors=((low.A, 0), (low.B, 1)), d_in=site.d_in, d_out=site.d_out, scale=low.scale)
            for site in adapted.sites
            if (low := found.get(site.name)) is not None
        }

    def update_norms(self, adapted: Adapted) -> dict[str, float]:
        """Site name -> ||dW||, Frobenius, of its update now; empty where the update is no sum of rank-1 matrices."""
        return {name: abs(f.scale) * product_norm(f.B, f.A) for name, f in self.low_rank(adapted).items()}

    @property
    def shared_inputs(self) -> int | None:
        """Over how many neighbouring inputs its updates are constant; None where every input has a column of its own."""
        return None

    def updates(self, adapted: Adapted) -> Iterator[tuple[str, int, torch.Tensor]]:
        """(site name, rank, dW [d_out, d_in] as it is now), one by one; none where the update is no sum of rank-1 matrices."""
        if self.resizable:
            for name, f in self.low_rank(adapted).items():
                yield name, f.rank, f.scale * (f.B.detach() @ f.A.detach())

    @abstractmethod
    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        """Closed formula for the number of trainable parameters outside the head (head parameters are added by the caller
        unless the adapter declares the head itself)."""

    def added(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        """How many of :meth:`count` are new parameters, not the backbone's own."""
        return self.count(backbone, sites, ranks)

    @abstractmethod
    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        """Put the adapter on the backbone (which is consumed). Initial values depend on ``seed`` alone."""

    def fuse(self, adapted: Adapted) -> Fused:
        """Make adapted layers compute base and update together, in place, once they are on their device.

        Outputs and gradients stay what they are up to rounding, dropout masks up to their draws; modules and parameters stay.
        """
        return Fused(why=f"adapter {self.name!r} has no fused layers")

    @abstractmethod
    def merge(self, adapted: Adapted) -> nn.Module:
        """The plain library model with the update folded in, in float; ``adapted`` is left unchanged.

        Of a quantized base: the weights that it multiplies with, in float, plus the update.
        """

    @abstractmethod
    def save(self, adapted: Adapted, folder: Path) -> None:
        """Write what was learnt: PEFT format where the method exists there, else safetensors + config."""

    @abstractmethod
    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        """The adapted model, for inference, from a plain backbone (which is consumed) and what :meth:`save` wrote.

        Raises:
            RecordError: the saved tensors are not those of this adapter on this backbone.
        """
