"""Published properties of quantized weights beside ours, and published figures of the same methods on other kinds of task."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from peftlab.analysis.literature import Row, literature
from peftlab.analysis.quantization import Cell, Elsewhere, WeightsBeside
from peftlab.analysis.quantized import QuantizedRun

OURS = "float32"  #: the precision of the base that reductions and errors of ours refer to
_PROTOCOL = "as stored while training, on the layers that were converted"


def _of_statistics(cell: Cell) -> float | None:
    """Bits beyond those of the codes, which are 4 or 8."""
    bits = cell.bits_per_parameter
    return None if bits is None else bits - 4 * math.floor(bits / 4)


def _reduction(cell: Cell) -> float | None:
    """Percent of a 16-bit base, converted layers only."""
    return None if cell.bits_per_parameter is None else 100 * (1 - cell.bits_per_parameter / 16)


#: metric of the published rows -> ours on the same scale
MEASURED: Mapping[str, Callable[[Cell], float | None]] = {
    "bits_per_parameter": lambda cell: cell.bits_per_parameter,
    "bits_per_parameter_of_statistics": _of_statistics,
    "weight_memory_reduction": _reduction,
    "relative_weight_error": lambda cell: cell.weight_error,
}


def weights_beside(
    cells: Sequence[Cell], runs: Sequence[QuantizedRun], rows: tuple[Row, ...] | None = None
) -> list[WeightsBeside]:
    """Every scheme on every backbone beside the published properties of its kind; arms that store the same are named together."""
    configs = {run.arm: run.config for run in runs}
    found: dict[tuple[object, ...], WeightsBeside] = {}
    for row in literature()[0] if rows is None else rows:
        measure = MEASURED.get(row.metric)
        for cell in cells if measure is not None else ():
            config = configs.get(cell.arm, {})
            ours = measure(cell) if measure is not None and row.is_of_scheme(config) else None
            if ours is None:
                continue
            key = (cell.task, cell.backbone, cell.scheme, id(row), round(ours, 6))
            entry = found.setdefault(
                key,
                WeightsBeside(
                    arms=[], task=cell.task, backbone=cell.backbone, scheme=cell.scheme, metric=row.metric, ours=ours, row=row,
                    ratio=ours / row.value if row.value else None, differs=_differs(row, cell, config),
                ),
            )  # fmt: skip
            entry.arms.append(cell.arm)
    return list(found.values())


def _differs(row: Row, cell: Cell, config: Mapping[str, object]) -> list[str]:
    quantizer = config.get("quantizer")
    group = quantizer.get("group_size") if isinstance(quantizer, Mapping) else None
    ours = {"model": cell.backbone, "base": OURS, "group size": group, "protocol": _PROTOCOL}
    theirs = {"model": row.model, "base": row.base, "group size": row.group, "protocol": row.protocol}
    return [
        f"{name}: {ours[name]} (published: {theirs[name]})"
        for name in ours
        if theirs[name] not in (None, "") and ours[name] is not None and ours[name] != theirs[name]
    ]


def elsewhere(runs: Sequence[QuantizedRun], rows: tuple[Row, ...] | None = None) -> list[Elsewhere]:
    """Rows of the arms' methods whose kind of task is another one than that of the arms."""
    found: dict[tuple[str, str, int], Elsewhere] = {}
    arms = {(run.task, run.backbone, run.arm): run.config for run in runs}
    for row in literature()[0] if rows is None else rows:
        for (task, backbone, arm), config in arms.items():
            if not row.is_family_elsewhere(config["task"], config):
                continue
            entry = found.setdefault((task, backbone, id(row)), Elsewhere(arms=[], task=task, backbone=backbone, row=row))
            entry.arms.append(arm)
    return list(found.values())
