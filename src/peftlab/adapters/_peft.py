"""What adapters share that are realised by Hugging Face PEFT.

PEFT's own modules, parameters and file format are used as they are. Two things are added around them: slices of fused layers
(nn/surgery.py) are adapted one by one and exported as one block-structured adapter on the fused layer, and every option that PEFT
would ignore is an error.
"""

from __future__ import annotations

import contextlib
import copy
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import peft
import torch
from peft.utils.other import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from peftlab import mistakes
from peftlab.adapters.contract import Adapted, Adapter
from peftlab.backbones.contract import Backbone
from peftlab.errors import DidNothing, OptionError, RecordError, nearest
from peftlab.nn.quantized import make_dense, restore_conv1d
from peftlab.nn.roles import Site
from peftlab.nn.seeding import seeded
from peftlab.nn.surgery import SlicedLinear, fuse_slices, slice_fused


class PeftAdapter(Adapter):
    """Base: attach through ``peft.get_peft_model``, merge with PEFT's own merge, save in PEFT's format."""

    takes_slices: ClassVar[bool] = True

    @abstractmethod
    def config(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None) -> peft.PeftConfig:
        """The PEFT configuration for these sites."""

    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        sites = self.sites(backbone)
        if ranks is not None:
            sites = ranked(sites, ranks)
        slice_fused(backbone.module, sites)
        config = self.config(backbone, sites, ranks)
        with seeded(seed, "adapter"), _old_names():  # seeded before injection: initial values are drawn in it
            module = peft.get_peft_model(backbone.module, config)  # pyright: ignore
        adapted = Adapted(module=module, backbone=backbone, adapter=self, sites=sites, ranks=dict(ranks or {}))
        self._verify(adapted)
        return adapted

    def _verify(self, adapted: Adapted) -> None:
        """Every site carries an adapter, and nothing else does."""
        layers = {n.removeprefix("base_model.model.") for n, m in adapted.module.named_modules() if hasattr(m, "base_layer")}
        wanted = {site.name for site in adapted.sites}
        if wanted and layers != wanted:
            odd = sorted(wanted ^ layers)[:4]
            raise DidNothing(
                "PEFT did not adapt exactly the layers asked for", where=", ".join(odd), remedy="report this; name the backbone"
            )
        copied = {
            n.removeprefix("base_model.model.") for n, m in adapted.module.named_modules() if isinstance(m, ModulesToSaveWrapper)
        }
        if not copied <= set(adapted.backbone.heads):  # PEFT matches the end of a name: a head "fc" is also found in "mlp.c_fc"
            odd = sorted(copied - set(adapted.backbone.heads))[:4]
            raise DidNothing(
                "PEFT trains modules besides the head", where=", ".join(odd), remedy="report this; name the backbone"
            )

    def merge(self, adapted: Adapted) -> nn.Module:
        merged = make_dense(copy.deepcopy(adapted.module)).merge_and_unload()  # pyright: ignore
        for name, module in list(merged.named_modules()):
            if isinstance(module, ModulesToSaveWrapper):  # PEFT's LN_TUNING merges the norms and leaves the head wrapped
                merged.set_submodule(name, module.modules_to_save[module.active_adapter])  # pyright: ignore
        fuse_slices(restore_conv1d(merged))
        return merged

    def save(self, adapted: Adapted, folder: Path) -> None:
        config: Any = adapted.module.peft_config["default"]  # pyright: ignore
        config.base_model_name_or_path = adapted.backbone.name
        adapted.module.save_pretrained(str(folder), save_embedding_layers=False)  # pyright: ignore

    def load(self, backbone: Backbone, folder: Path) -> nn.Module:
        return load_peft(backbone.module, folder)

    @staticmethod
    def modules_to_save(backbone: Backbone) -> list[str] | None:
        return list(backbone.heads) or None


def ranked(sites: Sequence[Site], ranks: Mapping[str, int]) -> list[Site]:
    """The sites with a rank above 0, if ``ranks`` speaks of exactly these sites."""
    names = {site.name for site in sites}
    if names != ranks.keys():
        odd = ", ".join(sorted(names ^ ranks.keys())[:4])
        raise OptionError(
            "ranks are not given for exactly the adapted layers", where=odd, remedy="allocate over the adapter's own sites"
        )
    if not any(ranks.values()):
        raise OptionError(
            "every rank is 0: nothing would be adapted", where="allocator", remedy="raise the budget, or use linear-probe"
        )
    return [site for site in sites if ranks[site.name] > 0]


def target_modules(names: Sequence[str], module: nn.Module) -> list[str] | str:
    """Layer names as PEFT's ``target_modules``, which it also matches as endings; where another layer ends in one, a regex.

    ``layers.1.q`` as a plain name would also adapt ``encoder.layers.1.q``.
    """
    endings = tuple("." + name for name in names)
    if any(name.endswith(endings) for name, _ in module.named_modules()):
        return "|".join(re.escape(name) for name in names)
    return list(names)


@contextlib.contextmanager
def _old_names() -> Iterator[None]:
    """PEFT asks transformers by a name that transformers is about to drop, and does not know our layers: no news for a user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        warnings.filterwarnings("ignore", message="Unsupported layer type.*SlicedLinear", category=UserWarning)
        yield


def load_peft(module: nn.Module, folder: Path) -> nn.Module:
    """Plain ``PeftModel.from_pretrained``, plus a check that no tensor of the adapter was left out.

    PEFT warns about missing tensors and goes on; here that is an error. A fused layer may have been taken apart, because its
    slices were quantized one by one: LoRA then stands beside all of them.
    """
    try:
        config = peft.PeftConfig.from_pretrained(str(folder))
        saved = load_file(folder / "adapter_model.safetensors")
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        said = mistakes.of_json(error) if isinstance(error, ValueError) else str(error)
        remedy = "it needs adapter_config.json and safetensors, as PEFT's save_pretrained writes them"
        raise RecordError(f"no readable adapter: {said}", where=str(folder), remedy=remedy) from error
    except KeyError as error:
        remedy = nearest(str(error.args[0]), (kind.value for kind in peft.PeftType))
        raise RecordError(
            f"PEFT knows no adapter of the type {error}", where=str(folder / "adapter_config.json"), remedy=remedy
        ) from error
    if isinstance(config, peft.LoraConfig):
        config._register_custom_module({SlicedLinear: peft.tuners.lora.Linear})
    try:
        with _old_names():
            model = peft.PeftModel.from_pretrained(module, str(folder), config=config)  # pyright: ignore
    except KeyError as error:  # of a head that is to be loaded, PEFT takes every tensor for granted
        odd = error.args[0]
        raise RecordError(
            f"the saved adapter does not fit: {odd}", where=str(folder), remedy="load it on its own backbone"
        ) from error
    except (RuntimeError, ValueError) as error:
        told = [line.strip() for line in str(error).strip().split("\n")]
        first = next((line for line in told if not line.startswith("Error(s) in loading")), told[0])[:200]
        raise RecordError(
            f"the adapter does not fit this backbone: {first}", where=str(folder), remedy="load it on its own backbone"
        ) from error
    wanted = peft.get_peft_model_state_dict(model, save_embedding_layers=any(".embed_tokens." in key for key in saved))
    if wanted.keys() != saved.keys():
        odd = sorted(wanted.keys() ^ saved.keys())[0]
        raise RecordError(f"the saved adapter does not fit: {odd}", where=str(folder), remedy="load it on its own backbone")
    return model


def site_of_layer(adapted: Adapted) -> dict[str, nn.Module]:
    """Site name -> PEFT layer."""
    return {site.name: adapted.module.get_submodule(f"base_model.model.{site.name}") for site in adapted.sites}


def check_ranks(sites: Sequence[Site], ranks: Mapping[str, int], where: str, group: int = 1) -> None:
    """Ranks between 1 and min(d_in, d_out); ``group``: inputs of a layer that count as one in d_in."""
    smaller = f" or group_size: d_in counts groups of {group} inputs" if group > 1 else ""
    for site in sites:
        rank = ranks[site.name]
        if rank > min(site.d_in, site.d_out):
            raise OptionError(
                f"rank {rank} is above min(d_in, d_out) = {min(site.d_in, site.d_out)} of {site.name}",
                where=where,
                remedy=f"lower the rank{smaller}",
            )


def block_structured(
    state: Mapping[str, torch.Tensor], sites: Sequence[Site], widths: Mapping[str, int]
) -> dict[str, torch.Tensor]:
    """LoRA tensors of slices joined into one adapter per fused layer.

    A = [A_q; A_v]  (sum of ranks x d_in);  B = blocks B_q, B_v at their output rows, zero elsewhere (width of the fused layer x
    sum of ranks).
    The product B A is then the slices' updates stacked, exactly. ``widths``: fused layer -> its d_out.
    """
    prefix = "base_model.model."
    result = {key: value for key, value in state.items() if not any(f"{prefix}{s.name}.lora_" in key for s in sites if s.parent)}
    for parent in dict.fromkeys(site.parent for site in sites if site.parent):
        slices = [site for site in sites if site.parent == parent]
        down = [state[f"{prefix}{s.name}.lora_A.weight"] for s in slices]
        up = [state[f"{prefix}{s.name}.lora_B.weight"] for s in slices]
        fused_up = up[0].new_zeros(widths[parent], sum(u.shape[1] for u in up))
        column = 0
        for site, part in zip(slices, up, strict=True):
            fused_up[site.offset : site.offset + site.d_out, column : column + part.shape[1]] = part
            column += part.shape[1]
        result[f"{prefix}{parent}.lora_A.weight"] = torch.cat(down)
        result[f"{prefix}{parent}.lora_B.weight"] = fused_up
    return result


def exported_config(
    sites: Sequence[Site], ranks: Mapping[str, int], scales: Mapping[str, float], module: nn.Module, **options: Any
) -> peft.LoraConfig:
    """PEFT's configuration for the tensors of :func:`block_structured`.

    Per layer the sum of its slices' ranks, and the alpha that keeps the scale (PEFT scales by alpha / r). Layers without a site
    are not listed and stay as they are.

    Args:
        ranks, scales: by site.
        module: the model that the names are matched in.
    """
    names = list(dict.fromkeys(s.parent or s.name for s in sites))
    total = {n: sum(ranks[s.name] for s in sites if (s.parent or s.name) == n) for n in names}
    scale = {s.parent or s.name: scales[s.name] for s in sites}
    first = names[0]
    return peft.LoraConfig(
        r=total[first],
        lora_alpha=_whole(scale[first] * total[first]),  # pyright: ignore
        rank_pattern={f"^{re.escape(n)}$": total[n] for n in names if total[n] != total[first]},
        alpha_pattern={
            f"^{re.escape(n)}$": _whole(scale[n] * total[n])
            for n in names
            if (total[n], scale[n]) != (total[first], scale[first])
        },  # pyright: ignore
        target_modules=target_modules(names, module),
        inference_mode=True,
        **options,
    )


def _whole(value: float) -> float | int:
    """16.0 is written as 16."""
    return int(value) if float(value).is_integer() else value


def reject_unknown(config_class: type, options: Mapping[str, Any], where: str) -> None:
    """PEFT configs are dataclasses: an option they do not know is an error with the nearest known one."""
    import dataclasses

    from peftlab.errors import nearest

    known = {f.name for f in dataclasses.fields(config_class)}
    for option in options:
        if option not in known:
            raise OptionError(
                f"PEFT's {config_class.__name__} has no option {option!r}",
                where=f"{where}.{option}",
                remedy=nearest(option, known),
            )
