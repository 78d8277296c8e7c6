"""What sets an arm apart from the baseline beside its method: how much it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

BATCH, LENGTH = "effective batch size", "length of training"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """How much one arm is trained."""

    label: str
    setting: tuple[str, str]  #: backbone and task: only arms of one are compared
    amount: Mapping[str, str]  #: :data:`BATCH` and :data:`LENGTH` in words, where the study and not the tuning decides them

    @classmethod
    def of(cls, key: tuple[str, str, str], train: Mapping[str, Any], *, tuned: Collection[str] = ()) -> Trained:
        """From (label, backbone, task), a ``train`` section whose ``batch_size`` is a number, and what of it is tuned.

        Of an arm that was trained elsewhere the section is empty, and nothing is known.
        """
        amount: dict[str, str] = {}
        if not train:
            return cls(label=key[0], setting=(key[1], key[2]), amount=amount)
        steps = train.get("max_steps")
        if steps != 0:  # else: evaluated as it starts
            if not {"batch_size", "effective_batch_size"} & set(tuned):
                amount[BATCH] = str(train.get("effective_batch_size") or train.get("batch_size"))
            if not {"epochs", "max_steps"} & set(tuned):
                amount[LENGTH] = f"{float(train.get('epochs') or 0):g} epochs" + (f", at most {steps} steps" if steps else "")
        return cls(label=key[0], setting=(key[1], key[2]), amount=amount)


def unlike(arms: Iterable[Trained], baseline: str | None) -> list[str]:
    """A sentence for each setting and each difference from the baseline; where there is none, among all arms."""
    groups: dict[tuple[str, str], list[Trained]] = {}
    for arm in arms:
        groups.setdefault(arm.setting, []).append(arm)
    return [
        sentence
        for setting, here in groups.items()
        for name in (BATCH, LENGTH)
        if (sentence := _sentence(name, here, baseline, f" on {', '.join(setting)}" if len(groups) > 1 else ""))
    ]


def _sentence(name: str, arms: list[Trained], baseline: str | None, where: str) -> str | None:
    values = {arm.label: arm.amount[name] for arm in arms if name in arm.amount}
    reference = values.get(baseline or "")
    others: dict[str, list[str]] = {}
    for label, value in values.items():
        if value != reference:
            others.setdefault(value, []).append(label)
    if not others or (reference is None and len(others) < 2):
        return None
    told = "; ".join(f"{value} for {', '.join(labels)}" for value, labels in others.items())
    against = f", where the baseline {baseline} has {reference}" if reference else ""
    return f"A confound{where}: arms differ in {name}: {told}{against}."
