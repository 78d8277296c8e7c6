"""Where a trained tensor belongs in the model: what several probes ask."""

from __future__ import annotations

from typing import Any

from peftlab.adapters.contract import Adapted

HEAD = "head"


class Places:
    """The modules of one adapted model, by the names of their parameters."""

    def __init__(self, adapted: Adapted) -> None:
        self.adapted = adapted
        self.sites = {site.name: site for site in sorted(adapted.backbone.roles.sites, key=lambda s: -len(s.name))}

    def module(self, parameter: str) -> str:
        """The site it belongs to, the head, or else the layer that holds it."""
        if self.adapted.is_head(parameter):
            return HEAD
        plain = parameter.removeprefix("base_model.model.")
        return next((name for name in self.sites if plain.startswith(f"{name}.")), plain.rpartition(".")[0] or plain)

    def about(self, module: str) -> dict[str, Any]:
        """``block`` (None outside the blocks) and ``role`` of a module."""
        if (site := self.sites.get(module)) is not None:
            return {"block": site.block, "role": site.role}
        block = next((int(part) for part in module.split(".") if part.isdigit()), None)
        return {"block": block, "role": HEAD if module == HEAD else "other"}
