"""EVA: what the layers see decides their ranks, through PEFT."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import peft
import torch

from peftlab.adapters.contract import Adapted
from peftlab.allocators._budget import PARAMETERS, BudgetOption, amount_of, check_budget, equal_ranks, factors
from peftlab.allocators._probe import Measured, ProbeReport, check_batches, note
from peftlab.allocators.contract import Allocator, BaseProbe
from peftlab.errors import DidNothing, OptionError
from peftlab.nn.modes import same_modes
from peftlab.nn.roles import Site
from peftlab.study.schema import Train

_PATIENCE = 500  #: batches after which directions that still turn are given up


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Found(Measured):
    """Also the directions [r, d_in] of each site; their number is its rank, which may be 0."""

    directions: Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Eva(Allocator):
    """A_m = the first r_m right singular vectors of the inputs of m; ranks go to the largest shares of explained variance.

    Paischer et al. 2024, section 3. For every module up to rho r directions of its (centred) inputs are found by incremental
    SVD over the first batches, again and again until none of those in use turns by more than cosine tau; the sum of ranks is
    then given out, one by one, to the direction that explains the largest share of its own module's variance. A module may be
    left without rank. B starts at zero. Realised by PEFT's ``get_eva_state_dict``; padding is left out of the inputs.
    """

    name: ClassVar[str] = "eva"
    acts: ClassVar[bool] = False
    needs_probe: ClassVar[bool] = True
    sets_factors: ClassVar[bool] = True
    citation: ClassVar[str] = """@article{paischer2024eva,
  title = {Parameter Efficient Fine-tuning via Explained Variance Adaptation},
  author = {Paischer, Fabian and Hauzenberger, Lukas and Schmied, Thomas and Alkin, Benedikt and Deisenroth, Marc Peter and
    Hochreiter, Sepp},
  journal = {arXiv preprint arXiv:2410.07170}, year = {2024}, url = {https://arxiv.org/abs/2410.07170}
}"""

    budget: BudgetOption | None = None  #: {ranks: 64}; {parameters: N} where all modules cost the same; default equal ranks' sum
    rho: float = 2.0  #: a module gets up to rho times its equal share; 1 keeps ranks equal
    batches: int = 16  #: that are gone through, again and again
    tau: float = 0.99  #: cosine between a direction and itself one batch before, at which it counts as found
    whiten: bool = False  #: rows of A divided by the square root of their singular values

    def __post_init__(self) -> None:
        check_budget(self.budget)
        check_batches(self.batches)
        if self.rho < 1:
            raise OptionError(f"rho must be at least 1, got {self.rho}", where="rho", remedy="e.g. 2")
        if not 0 < self.tau < 1:
            raise OptionError(f"tau must be between 0 and 1, got {self.tau}", where="tau", remedy="e.g. 0.99")

    def equal(self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None) -> dict[str, int]:
        """Ranks before they are given out anew.

        Raises:
            OptionError: a budget below one rank a module, or one in parameters that moving ranks would not keep.
        """
        if self.budget is None:
            return {site.name: rank for site in sites}
        unit, _ = amount_of(self.budget)
        prices = {(cost or factors)(site, 1) for site in sites}
        if unit == PARAMETERS and len(prices) > 1:
            raise OptionError(
                f"EVA moves ranks between modules whose ranks cost from {min(prices)} to {max(prices)} parameters: "
                "a budget in parameters would not hold",
                where="allocator.budget",
                remedy="give {ranks: ...}, or adapt layers of one size",
            )
        return equal_ranks(sites, self.budget, cost=cost)

    def initial(
        self,
        sites: Sequence[Site],
        rank: int,
        measured: Found | None = None,
        cost: Callable[[Site, int], int] | None = None,
    ) -> dict[str, int]:
        if measured is None:
            return self.equal(sites, rank, cost)
        return {site.name: len(measured.directions[site.name]) for site in sites}

    def check(self, sites: Sequence[Site], ranks: Mapping[str, int], total_steps: int, train: Train) -> None:
        most = round(max(ranks.values()) * self.rho)
        for site in sites:
            self._check_size(site.name, most, site.d_in, "inputs")
            if most > site.d_out:
                raise OptionError(
                    f"rho {self.rho:g} allows {site.name} a rank above its {site.d_out} outputs",
                    where="allocator.rho",
                    remedy="lower rho or the rank",
                )

    def _check_size(self, name: str, directions: int, size: int, what: str) -> None:
        """PEFT's randomised SVD takes twice the number of directions."""
        if 2 * directions > size:
            raise OptionError(
                f"{directions} directions of {name} are asked for (rank times rho), and {size} {what} allow {size // 2}",
                where="allocator.rho",
                remedy="lower rho or the rank" + ("" if what == "inputs" else ", or raise train.batch_size"),
            )

    def measure(self, base: BaseProbe, sites: Sequence[Site], rank: int) -> Found:
        begin, module = time.perf_counter(), base.backbone.module
        if next(module.parameters()).device.type == "mps":
            raise OptionError("PEFT's EVA computes in float64, which MPS lacks", where="allocator", remedy="run on a CPU")
        equal = self.equal(sites, rank)
        most = round(max(equal.values()) * self.rho)
        config = peft.LoraConfig(
            r=rank,
            rank_pattern={f"^{re.escape(name)}$": r for name, r in equal.items() if r != rank},
            target_modules="|".join(re.escape(site.name) for site in sites),
            init_lora_weights="eva",
            eva_config=peft.EvaConfig(rho=self.rho, tau=self.tau, whiten=self.whiten),
        )
        batches = [dict(base.inputs(batch)) for batch in base.batches(self.batches)]
        passes = 0

        def forward(model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
            nonlocal passes
            passes += 1
            if passes > _PATIENCE:
                raise DidNothing(
                    f"EVA's directions still turn after {_PATIENCE} batches", where="allocator.tau", remedy="lower tau or rho"
                )
            base.backbone.outputs(model, inputs)

        def rows(layer_input: Any, mask: torch.Tensor | None, name: str) -> torch.Tensor:
            """What a layer sees of a batch, [tokens, d_in], without padding."""
            x = layer_input if isinstance(layer_input, torch.Tensor) else layer_input[0]
            x = x[mask] if mask is not None and x.shape[:-1] == mask.shape else x.flatten(0, -2)
            self._check_size(name, most, len(x), "tokens of a batch")
            return x

        def mask_of(inputs: Mapping[str, torch.Tensor], _: peft.LoraConfig) -> torch.Tensor | None:
            mask = inputs.get("attention_mask")
            return mask.bool() if mask is not None else None

        with same_modes(module), _without_hooks(module):
            found = peft.get_eva_state_dict(
                module,
                batches,
                config,
                forward_fn=forward,
                prepare_model_inputs_fn=mask_of,
                prepare_layer_inputs_fn=rows,
                show_progress_bar=False,
            )
        return Found(
            importance={},
            batches=len(batches),
            seconds=time.perf_counter() - begin,
            directions={site.name: found[site.name].float() for site in sites},
        )

    @torch.no_grad()
    def initialise(self, adapted: Adapted, measured: Found | None) -> None:
        if measured is None:
            return
        for name, layer in adapted.adapter.low_rank(adapted).items():
            layer.A.copy_(measured.directions[name])
        adapted.hooks.append(ProbeReport(self, adapted, self.budget, measured))

    def notes(
        self, sites: Sequence[Site], rank: int, cost: Callable[[Site, int], int] | None = None, scale: float | None = None
    ) -> tuple[str, ...]:
        return note(self.name, sites, self.batches, copies=0)


@contextlib.contextmanager
def _without_hooks(module: torch.nn.Module) -> Iterator[None]:
    """Afterwards PEFT's hooks are off: it leaves them where they are when a pass fails."""
    try:
        yield
    finally:
        for part in module.modules():
            for key, hook in list(part._forward_hooks.items()):
                if type(hook).__module__ == peft.get_eva_state_dict.__module__:
                    del part._forward_hooks[key]
