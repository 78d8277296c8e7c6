"""Any other tuner of Hugging Face PEFT."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import peft

from peftlab.adapters._peft import PeftAdapter, reject_unknown, target_modules
from peftlab.adapters.contract import Adapted
from peftlab.backbones.contract import Backbone
from peftlab.errors import OptionError, nearest
from peftlab.nn.roles import Site, select

#: tuners that only see what goes into a layer and comes out of it (PEFT 0.21.2 cannot merge OFT and VeRA into a base made float)
_ON_QUANTIZED = frozenset("FOURIERFT IA3 LN_TUNING".split())
#: scales that start at 1, and biases, that PEFT keeps as [d, 1] or [1, d] [seen on PEFT 0.21.2]
_VECTORS = {"IA3": "ia3_l", "BOFT": "boft_s", "BEFT": "beft_bias"}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PeftTuner(PeftAdapter):
    """A PEFT tuner by its PEFT name: ``{name: peft, type: VERA, config_options: {r: 64}}``.

    ``config_options`` go to PEFT's own configuration class; an option that class does not know is an error. Target layers are
    chosen by role (``targets``) where the tuner adapts layers.
    """

    name: ClassVar[str] = "peft"
    methods: ClassVar[Mapping[str, str]] = {
        "VeRA": "adapter: {name: peft, type: VERA}",
        "IA3": "adapter: {name: peft, type: IA3}",
        "OFT": "adapter: {name: peft, type: OFT}",
        "LoHa": "adapter: {name: peft, type: LOHA}",
        "LoKr": "adapter: {name: peft, type: LOKR}",
        "HRA": "adapter: {name: peft, type: HRA}",
        "FourierFT": "adapter: {name: peft, type: FOURIERFT}",
    }
    citation: ClassVar[str] = """@misc{mangrulkar2022peft,
  title = {{PEFT}: State-of-the-art Parameter-Efficient Fine-Tuning methods},
  author = {Mangrulkar, Sourab and Gugger, Sylvain and Debut, Lysandre and Belkada, Younes and Paul, Sayak and Bossan, Benjamin},
  howpublished = {\\url{https://github.com/huggingface/peft}}, year = {2022}
}"""

    type: str
    targets: str | tuple[str, ...] = "standard"
    config_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {kind.value for kind in peft.PEFT_TYPE_TO_CONFIG_MAPPING}
        if self.type.upper() not in known:
            raise OptionError(f"PEFT has no tuner {self.type!r}", where="type", remedy=nearest(self.type.upper(), known))
        if self.type.upper() == "ADALORA":  # PEFT's needs update_and_allocate after every step; without it, no rank ever changes
            raise OptionError(
                "PEFT's AdaLoRA would act as LoRA here: nothing calls it after each step",
                where="type",
                remedy="use `adapter: svd` with `allocator: adalora`",
            )
        if self.type.upper() == "LN_TUNING" and "target_modules" not in self.config_options:
            raise OptionError(
                "LN_TUNING trains whatever layers it is given, and `targets` names linear ones",
                where="config_options",
                remedy="add target_modules: the names of the normalisation layers",
            )
        reject_unknown(self._config_class(), self.config_options, "config_options")

    @property
    def reads_frozen(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return True  # nobody knows what each tuner keeps

    @property
    def vectors(self) -> frozenset[str]:
        return frozenset(filter(None, [_VECTORS.get(self.type.upper())]))

    @property
    def zero_at_start(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """These tuners start from random updates [seen on PEFT 0.21.2]."""
        return self.type.upper() not in ("C3A", "FOURIERFT", "VBLORA")

    @property
    def needs_float(self) -> str:
        known = self.type.upper() in _ON_QUANTIZED
        return "" if known else f"PEFT's {self.type} computes with the weight matrix itself, or nobody has tried it"

    def _config_class(self) -> type:
        return peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(self.type.upper())]

    def sites(self, backbone: Backbone) -> list[Site]:
        names = {f.name for f in dataclasses.fields(self._config_class())}
        if "target_modules" not in names or "target_modules" in self.config_options:
            return []
        sites = select(backbone.roles, self.targets, where="adapter.targets")
        if any(site.parent for site in sites):
            raise OptionError(
                f"{self.targets!r} means slices of fused layers here, which PEFT's {self.type} could not be exported for",
                where="adapter.targets",
                remedy="use targets: fused, or a transformers backbone with separate q, k, v",
            )
        return sites

    def count(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None = None) -> int:
        """Counted on a copy, attached: PEFT's tuners have no common formula."""
        import copy

        adapted = self.attach(copy.deepcopy(backbone), seed=0)
        return sum(p.numel() for n, p in adapted.trainable().items() if not adapted.is_head(n))

    def config(self, backbone: Backbone, sites: Sequence[Site], ranks: Mapping[str, int] | None) -> peft.PeftConfig:
        options: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in self.config_options.items()}
        if sites:
            options["target_modules"] = target_modules([s.name for s in sites], backbone.module)
        names = {f.name for f in dataclasses.fields(self._config_class())}
        if (
            sites and "feedforward_modules" in names
        ):  # IA3 scales the input of the second feed-forward layer, the output of all others
            options.setdefault("feedforward_modules", [s.name for s in sites if s.role == "down"])
        if "modules_to_save" in names and backbone.heads:
            options.setdefault("modules_to_save", list(backbone.heads))
        try:
            return self._config_class()(**options)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"PEFT refuses the options: {error}", where="adapter.config_options", remedy="see PEFT's documentation"
            ) from error

    def attach(self, backbone: Backbone, *, seed: int, ranks: Mapping[str, int] | None = None) -> Adapted:
        if not backbone.head and issubclass(self._config_class(), peft.PromptLearningConfig):
            raise OptionError(
                f"PEFT's {self.type} puts tokens of its own before every text, which a model without a head is scored on",
                where="adapter",
                remedy="use an adapter that works inside the layers, e.g. lora",
            )
        try:
            return PeftAdapter.attach(self, backbone, seed=seed, ranks=ranks)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise OptionError(
                f"PEFT's {self.type} does not work on this backbone with these options: {str(error).splitlines()[0][:200]}",
                where="adapter",
                remedy=f"see what PEFT's documentation says of {self.type}, or choose another",
            ) from error
