"""Visual prompt tuning."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from peftlab.adapters._inserted import CHILD, Inserting, check_dropout, shared_name
from peftlab.backbones.contract import Backbone
from peftlab.errors import BackboneError, OptionError
from peftlab.nn.roles import Site

#: transformers' families whose blocks take [batch, tokens, d] and put no position into attention -> tokens before the patches
_TRANSFORMERS = {"vit": 1, "deit": 2, "dinov2": 1}


class _Prompts(nn.Module):
    """Prompts [p, d] put behind the first ``special`` tokens of a block's input.

    ``replaces``: the previous block's p prompts stand there and are replaced.
    """

    def __init__(self, tokens: torch.Tensor, special: int, replaces: bool, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Parameter(tokens)
        self.special, self.replaces = special, replaces
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[batch, n, d] -> [batch, n + p, d], or the same length where prompts are replaced."""
        prompts = self.dropout(self.tokens).to(x.dtype).expand(len(x), -1, -1)
        rest = self.special + (len(self.tokens) if self.replaces else 0)
        return torch.cat((x[:, : self.special], prompts, x[:, rest:]), dim=1)


def _enter(block: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return block.get_submodule(CHILD)(args[0]), *args[1:]


class _Leave:
    """Takes the prompts out again behind the last block, so that whatever follows sees the tokens it knows."""

    def __init__(self, special: int, number: int) -> None:
        self.special, self.number = special, number

    def __call__(self, block: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        return torch.cat((output[:, : self.special], output[:, self.special + self.number :]), dim=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class VisualPrompt(Inserting):
    """Learnt tokens beside the class token and the patches: [x_class, P, E] (Jia et al. 2022, section 3.2).

    ``shallow``: p prompts P_0 [p, d] enter before the first block and pass through all. ``deep``: every block i gets its own P_i
    in the place of what became of the previous ones. They stand behind the class token (and distillation or register tokens) and
    are taken out behind the last block. They act from the start: P ~ U(-v, v), v = sqrt(6 / (3 patch^2 + d)), as released.
    Trainable parameters: shallow p d, deep L p d.
    """

    name: ClassVar[str] = "vpt"
    methods: ClassVar[Mapping[str, str]] = {
        "prompt-tuning": "adapter: vpt",
        "VPT-shallow": "adapter: {name: vpt, depth: shallow}",
        "VPT-deep": "adapter: vpt",
    }
    mergeable: ClassVar[bool] = False
    zero_at_start: ClassVar[bool] = False
    citation: ClassVar[str] = """@inproceedings{jia2022vpt,
  title = {Visual Prompt Tuning},
  author = {Jia, Menglin and Tang, Luming and Chen, Bor-Chun and Cardie, Claire and Belongie, Serge and Hariharan, Bharath
    and Lim, Ser-Nam},
  booktitle = {European Conference on Computer Vision}, year = {2022}, pages = {709--727}, doi = {10.1007/978-3-031-19827-4_41}
}"""

    depth: Literal["shallow", "deep"] = "deep"
    prompts: int = 10  #: p, per block; the paper chooses from 1 to 200 per data set
    dropout: float = 0.0  #: on the prompts, in training

    def __post_init__(self) -> None:
        check_dropout(self.dropout)
        if self.prompts < 1:
            raise OptionError(f"prompts must be at least 1, got {self.prompts}", where="prompts", remedy="e.g. 10")

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        blocks = _blocks(backbone)
        number = len(blocks) if self.depth == "deep" else 1
        return number * self.prompts * _patches(backbone)[0]

    def insert(self, backbone: Backbone, random: torch.Generator) -> None:
        blocks, special = _blocks(backbone), _special_tokens(backbone)
        width, pixels = _patches(backbone)
        limit = math.sqrt(6 / (pixels + width))
        for number, block in enumerate(blocks if self.depth == "deep" else blocks[:1]):
            tokens = nn.init.uniform_(torch.empty(self.prompts, width), -limit, limit, generator=random)
            block.add_module(CHILD, _Prompts(tokens, special, number > 0, self.dropout))
            block.register_forward_pre_hook(_enter)
        blocks[-1].register_forward_hook(_Leave(special, self.prompts))


def _timm_tokens(backbone: Backbone) -> int | None:
    module: Any = backbone.module
    plain = "VisionTransformer" in {kind.__name__ for kind in type(module).__mro__} and getattr(module, "rope", None) is None
    return int(module.num_prefix_tokens) if plain else None


#: library -> tokens that stand before the patches; None: not a vision transformer whose token sequence can grow
_SPECIAL: dict[str, Callable[[Backbone], int | None]] = {
    "timm": _timm_tokens,
    "transformers": lambda backbone: _TRANSFORMERS.get(backbone.family),
}


def _special_tokens(backbone: Backbone) -> int:
    """How many tokens stand before the patches.

    Raises:
        BackboneError: not a vision transformer whose token sequence can grow.
    """
    found = _SPECIAL[backbone.library](backbone)
    if found is None:
        raise BackboneError(
            f"visual prompts cannot be put into a {backbone.family} model",
            where=backbone.name,
            remedy=f"use a vision transformer: timm's VisionTransformer, or transformers' {', '.join(_TRANSFORMERS)}",
        )
    return found


def _blocks(backbone: Backbone) -> list[nn.Module]:
    """The transformer blocks: of each, the innermost module that holds all its linear layers."""
    _special_tokens(backbone)
    found = []
    for block in range(backbone.roles.blocks):
        names = [site.name for site in backbone.roles.sites if site.block == block]
        found.append(backbone.module.get_submodule(shared_name(names)))
    return found


def _patches(backbone: Backbone) -> tuple[int, int]:
    """(d, channels x patch height x patch width) of the patch embedding."""
    _special_tokens(backbone)
    width = next(site.d_in for site in backbone.roles.sites if site.block == 0)
    convolutions = (m for m in backbone.module.modules() if isinstance(m, nn.Conv2d))
    found = next((m for m in convolutions if m.out_channels == width and m.stride == m.kernel_size), None)
    if found is None:
        raise BackboneError("it has no patch embedding", where=backbone.name, remedy="use a vision transformer on patches")
    return width, found.in_channels * math.prod(found.kernel_size)
