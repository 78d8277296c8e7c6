"""Published results beside ours: the rows of ``literature.yaml``, and what keeps each from being comparable."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

from peftlab.analysis.findings import Findings, Form
from peftlab.analysis.frame import Frame, configurations
from peftlab.analysis.planned import task_name
from peftlab.analysis.reading import read_json
from peftlab.analysis.tuned import by_fold
from peftlab.analysis.words import is_share

Column = Literal["backbone", "data", "split", "protocol"]
COLUMNS: tuple[Column, ...] = ("backbone", "data", "split", "protocol")
FLOAT = "none"  #: the quantizer of weights left as they are
ANY = "any"  #: task of properties of a method alone
_UNSTATED = "not stated"


class Row(Form):
    """One published figure. ``adapter``, ``allocator`` and ``quantizer`` say which of our arms are of its family: every option
    named there must be the arm's (a list: one of these); without an adapter none is."""

    source: str  #: BibTeX key
    place: str  #: table or section
    method: str
    task: str  #: kind of task, ``any`` for properties of a method alone
    model: str = _UNSTATED
    data: str = _UNSTATED
    split: str = _UNSTATED
    protocol: str = _UNSTATED
    metric: str
    value: float  #: as printed; shares in percent
    spread: float | None = None  #: as printed after a plus-minus sign
    seeds: int | None = None
    parameters: int | None = None  #: trainable
    note: str = ""
    adapter: dict[str, Any] | None = None
    allocator: dict[str, Any] | None = None
    quantizer: dict[str, Any] | None = None
    #: of properties of weights, and of figures without an adapter: the row is of arms whose quantizer is one of these
    schemes: list[dict[str, Any]] = []
    base: str | None = None  #: precision of the base that the figure refers to
    group: int | None = None  #: weights that share a scale
    study: str | None = None  #: shipped study file, of a GPU's size, that measures it
    arm: str | None = None  #: its arm
    same: dict[Column, list[str]] = {}  #: column -> shell patterns of our records that agree with it

    @property
    def level(self) -> float:
        """The value on the scale of our records."""
        return self.value / 100 if is_share(self.metric) else self.value

    def is_family_of(self, task: Mapping[str, Any], how: Mapping[str, Any]) -> bool:
        """Whether a run of ours used this method on this kind of task. ``how``: adapter, allocator and quantizer as recorded."""
        if self.adapter is None or task.get("kind") != self.task:
            return False
        asked = {"adapter": self.adapter, "allocator": self.allocator, "quantizer": self.quantizer}
        return all(_covers(spec, how.get(part)) for part, spec in asked.items())

    def is_of_scheme(self, how: Mapping[str, Any]) -> bool:
        """Whether an arm stores its weights so."""
        return any(_covers(spec, how.get("quantizer")) for spec in self.schemes)

    def is_family_elsewhere(self, task: Mapping[str, Any], how: Mapping[str, Any]) -> bool:
        """Whether a run of ours used this method on another kind of task."""
        if self.task in (ANY, task.get("kind")):
            return False
        return self.is_family_of({"kind": self.task}, how) or self.is_of_scheme(how)

    @property
    def told(self) -> dict[Column, str]:
        return {"backbone": self.model, "data": self.data, "split": self.split, "protocol": self.protocol}


def _covers(asked: Mapping[str, Any] | None, used: Mapping[str, Any] | None) -> bool:
    if asked is None:
        return not used or used.get("name") == FLOAT
    return bool(used) and all(
        used.get(key) in value if isinstance(value, list) else used.get(key) == value for key, value in asked.items()
    )


class Beside(Form):
    """One arm of ours beside one published figure."""

    arm: str
    task: str
    backbone: str
    metric: str
    ours: float
    n: int
    row: Row
    ratio: float | None  #: ours / published
    told: dict[Column, str]  #: our columns in words
    agrees: dict[Column, bool]

    @property
    def comparable(self) -> bool:
        return all(self.agrees.values())

    @property
    def differs(self) -> list[str]:
        """What keeps the two from being compared, in words."""
        published = self.row.told
        return [f"{c}: {self.told[c]} (published: {published[c]})" for c in COLUMNS if not self.agrees[c]]


@functools.cache
def literature() -> tuple[tuple[Row, ...], dict[str, str]]:
    """(rows in the order of the file, BibTeX entry by key; words where no first source is known)."""
    raw = YAML(typ="safe", pure=True).load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    rows = [Row(**{**{k: v for k, v in table.items() if k != "rows"}, **row}) for table in raw["tables"] for row in table["rows"]]
    return tuple(rows), {key: text.strip() for key, text in raw["sources"].items()}


def beside_literature(frame: Frame, findings: Findings, rows: tuple[Row, ...] | None = None) -> list[Beside]:
    """Every arm beside the published figures of its method family in the same metric, those that agree most first."""
    published = literature()[0] if rows is None else rows
    places, found = configurations(frame), []
    for arm in findings.arms:
        folder, configs = places.get((arm.label, arm.task, arm.backbone), ("", []))
        if arm.mean is None or not configs:
            continue
        config = configs[0]  # folds differ in tuned values alone
        results = read_json(frame.folder / folder / "results.json") or {}
        told = _told(by_fold(configs), results)
        family = [row for row in published if row.metric == findings.plan.metric and row.is_family_of(config["task"], config)]
        entries = [
            Beside(
                arm=arm.label, task=arm.task, backbone=arm.backbone, metric=row.metric, ours=arm.mean, n=arm.n, row=row,
                ratio=arm.mean / row.level if row.level else None, told=told,
                agrees={c: any(fnmatchcase(told[c], pattern) for pattern in row.same.get(c, [])) for c in COLUMNS},
            )
            for row in family
        ]  # fmt: skip
        found += sorted(entries, key=lambda e: -sum(e.agrees.values()))
    return found


def _told(config: Mapping[str, Any], results: Mapping[str, Any]) -> dict[Column, str]:
    task, train = config["task"], config.get("train") or {}
    sizes = results.get("splits") or {}
    splits = [f"{sizes.get(key, 0):,} {word}" for key, word in (("train", "training"), ("validation", "validation"))]
    epochs = train.get("epochs", 0)
    amount = epochs if isinstance(epochs, str) else f"{epochs:g}"  # text where folds were tuned to other numbers
    length = f"{train['max_steps']} steps" if train.get("max_steps") else f"{amount} epochs"
    size = f", {task['image_size']} pixels" if task.get("image_size") else ""
    return {
        "backbone": str(config.get("backbone", "")),
        "data": task_name(task).removeprefix(str(task.get("kind", ""))).strip(),
        "split": ", ".join([*splits, f"{sizes.get('test', 0):,} test examples"]) if sizes else "not recorded",
        "protocol": f"{length}, batch {train.get('batch_size')}, learning rate {train.get('learning_rate')}{size}",
    }
