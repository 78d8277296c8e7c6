"""What a run is called on a terminal and in a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftlab.records.record import RunConfig


def run_name(config: RunConfig) -> str:
    """``lora[rank=8] seed 3`` with fold and purpose where they tell runs apart; on a low rung also with its steps."""
    steps = config.train.get("max_steps")
    rung = f", {steps} steps" if steps and "max_steps" not in config.tuned else ""
    return _who(config) + (f" (tuning: {values_of(config.tuned)}{rung})" if config.purpose == "tuning" else "")


def bar_name(config: RunConfig) -> str:
    """Shorter: a bar says by itself how many steps there are."""
    return _who(config) + (f" ({values_of(config.tuned)})" if config.purpose == "tuning" else "")


def _who(config: RunConfig) -> str:
    return f"{config.label} seed {config.seed}" + (f" fold {config.fold}" if config.fold else "")


def values_of(tried: Mapping[str, Any]) -> str:
    """``learning_rate 0.003, weight_decay 0.1``: what a tuning run tries."""
    return ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in tried.items())
