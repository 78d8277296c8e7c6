"""The bounds of docs/theory.md on real weights: ``python tools/theory_check.py [--weights model.safetensors] [--group 32]``.

Prints the tables that docs/theory.md quotes. Says so and ends where the weights are not there.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

from peftlab.nn.groups import BITS, BOOKS, Groups, half_gap, quantize_groups, stored_bytes
from peftlab.nn.packed import PackedLinear
from peftlab.nn.weight_error import WeightError

WEIGHTS = Path(__file__).parents[1].parent / "shared" / "data" / "weights" / "vit_tiny_patch16_224" / "model.safetensors"
KINDS = ("int4", "int8", "nf4", "fp4")
RANKS = (2, 4, 8, 16)
GROUPS = (8, 16, 32, 64)
MATRIX = re.compile(r"blocks\.\d+\..*\.weight$")


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """One matrix under one scheme; ratios are measured over bound, at most 1 where the bound holds."""

    relative_error: float  #: ||W - Q(W)|| / ||W||
    element: float  #: largest |W - Q(W)| / its bound
    noise: float  #: ||W - Q(W)||^2 over (1 - 2/g) a^2/12 for every element; nan for code books
    unrestricted: dict[int, float]  #: rank -> largest share of ||E||^2 an update can cancel
    pooled: dict[int, float]
    means: float  #: energy of the group means, the limit of `pooled`
    attained: float  #: what the truncated singular value decomposition of rank 4 really cancels, over its bound
    attained_pooled: float
    merge: float  #: ||deq(merged) - (W~ + dW)|| / ||dW||, for a pooled update on the bound
    codes_changed: int  #: by that merge
    requantized: float  #: largest |Q(W~ + dW) - (W~ + dW)| over its bound, for an unrestricted update on the bound
    lost: float  #: ||Q(W~ + dW) - (W~ + dW)|| / ||dW||: what rounding the merged weights again costs
    bits: tuple[float, float]  #: formula, bytes really stored


def step(groups: Groups) -> torch.Tensor:
    """Half of the distance between neighbouring values, the largest there is in a code book: [d_out, L]."""
    return groups.scale * (half_gap(groups.kind) if groups.kind in BOOKS else 0.5)


def check(weight: torch.Tensor, kind: str, group: int, rank: int = 4) -> Checked:
    """All bounds on W [d_out, d_in]."""
    weight = weight.float()
    groups = quantize_groups(weight, group, kind)  # pyright: ignore
    restored = groups.dequantize()
    error = weight - restored
    found = WeightError.of(weight, restored, group)
    energy, means = float(error.double().square().sum()), error.unflatten(1, (-1, group)).mean(-1)
    best, best_pooled = truncated(error, rank), truncated(means, rank)
    wide = best_pooled.repeat_interleave(group, dim=1)
    layer = PackedLinear.of(_linear(weight), group, kind, bounds=False)  # pyright: ignore
    merged = layer.shifted(best_pooled)
    whole = restored + best
    again = quantize_groups(whole, group, kind)  # pyright: ignore
    rounding = (whole - again.dequantize()).abs()
    slack = 1e-6 * float(weight.abs().max())
    return Checked(
        relative_error=found.relative,
        element=float((error.abs().unflatten(1, (-1, group)).amax(-1) / (step(groups) + slack)).max()),
        noise=math.nan if kind in BOOKS else energy / float((groups.scale.double() ** 2 / 12).sum() * (group - 2)),
        unrestricted={r: found.unrestricted[min(r, len(found.unrestricted)) - 1] for r in RANKS},
        pooled={r: found.pooled[min(r, len(found.pooled)) - 1] for r in RANKS},
        means=group * float(means.double().square().sum()) / energy,
        attained=cancelled(error, best) / found.unrestricted[min(rank, len(found.unrestricted)) - 1],
        attained_pooled=cancelled(error, wide) / found.pooled[min(rank, len(found.pooled)) - 1],
        merge=float((merged.dequantize() - restored - wide).norm() / wide.norm()),
        codes_changed=int((merged.codes() != layer.codes()).sum()),
        requantized=float((rounding.unflatten(1, (-1, group)).amax(-1) / (step(again) + slack)).max()),
        lost=float(rounding.norm() / best.norm()),
        bits=(
            BITS[kind] + 32 * (1 if kind in BOOKS else 2) / group,
            8 * layer.stored_bytes() / weight.numel(),
        ),
    )


def truncated(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of that rank."""
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).float()


def cancelled(error: torch.Tensor, update: torch.Tensor) -> float:
    """1 - ||E - dW||^2 / ||E||^2."""
    return 1 - float((error - update).double().square().sum() / error.double().square().sum())


def _linear(weight: torch.Tensor) -> torch.nn.Linear:
    layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    return layer


def matrices(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """The linear layers of the blocks; a fused qkv as its three parts."""
    for name, tensor in load_file(path).items():
        if tensor.ndim == 2 and MATRIX.match(name):
            fused = name.endswith("qkv.weight")
            for part, matrix in zip("qkv" if fused else ("",), tensor.chunk(3 if fused else 1), strict=True):
                yield name.replace("qkv.weight", f"{part}.weight"), matrix


def table(found: dict[str, list[Checked]], group: int) -> list[str]:
    """Means over matrices; of ratios to a bound the largest."""
    lines = [
        f"{len(next(iter(found.values())))} matrices, g = {group}, rank 4 where a rank is used.",
        "",
        "| | " + " | ".join(found) + " |",
        "|---|" + "--:|" * len(found),
    ]

    def row(label: str, value) -> None:
        lines.append(f"| {label} | " + " | ".join(value(rows) for rows in found.values()) + " |")

    def mean(pick, form: str = "{:.4f}"):
        return lambda rows: form.format(statistics.fmean(pick(r) for r in rows))

    def largest(pick, form: str = "{:.4f}"):
        return lambda rows: form.format(max(pick(r) for r in rows))

    row("relative weight error", mean(lambda r: r.relative_error))
    row("largest element error / bound", largest(lambda r: r.element))
    noise = mean(lambda r: r.noise)
    row("error energy / uniform noise (1 − 2/g) a²/12", lambda rows: "–" if math.isnan(rows[0].noise) else noise(rows))
    row("energy of the group means, limit of pooled", mean(lambda r: 100 * r.means, "{:.2f} %"))
    for rank in RANKS:
        row(f"cancellable, rank {rank}, unrestricted", mean(lambda r, k=rank: 100 * r.unrestricted[k], "{:.2f} %"))
        row(f"cancellable, rank {rank}, pooled", mean(lambda r, k=rank: 100 * r.pooled[k], "{:.2f} %"))
    row("truncated SVD / its bound", largest(lambda r: r.attained, "{:.6f}"))
    row("the same, pooled", largest(lambda r: r.attained_pooled, "{:.6f}"))
    row("merge of a pooled update: relative error", largest(lambda r: r.merge, "{:.1e}"))
    row("codes that it changed", largest(lambda r: r.codes_changed, "{:d}"))
    row("requantized merge: largest element error / bound", largest(lambda r: r.requantized))
    row("requantized merge: error / update", mean(lambda r: r.lost, "{:.2f}"))
    row("bits per parameter by formula", mean(lambda r: r.bits[0], "{:.3f}"))
    row("bits per parameter stored", mean(lambda r: r.bits[1], "{:.3f}"))
    return lines


def by_group(weights: list[torch.Tensor]) -> list[str]:
    """What changes with the group size, for int4."""
    lines = ["| g | relative error | group means | pooled, rank 4 | unrestricted, rank 4 | bits |", "|--:|--:|--:|--:|--:|--:|"]
    for group in GROUPS:
        rows = [WeightError.of(w, quantize_groups(w, group, "int4").dequantize(), group) for w in weights]
        mean = statistics.fmean
        lines.append(
            f"| {group} | {mean(r.relative for r in rows):.4f} | {100 * mean(r.pooled[-1] for r in rows):.2f} % | "
            f"{100 * mean(r.pooled[min(4, len(r.pooled)) - 1] for r in rows):.2f} % | "
            f"{100 * mean(r.unrestricted[3] for r in rows):.2f} % | "
            f"{8 * stored_bytes(192, 192, group, 'int4') / 192**2:.2f} |"
        )
    return lines


def by_shape(named: list[tuple[str, torch.Tensor]], group: int) -> list[str]:
    """What changes with the shape of the matrix, for int4."""
    shapes: dict[str, list[WeightError]] = {}
    for _, weight in named:
        found = WeightError.of(weight, quantize_groups(weight, group, "int4").dequantize(), group)
        shapes.setdefault(f"{weight.shape[0]} x {weight.shape[1]}", []).append(found)
    lines = ["| d_out x d_in | matrices | " + " | ".join(f"rank {r}" for r in RANKS) + " | pooled, rank 4 |"]
    lines.append("|---|--:|" + "--:|" * (len(RANKS) + 1))
    for shape, rows in shapes.items():
        shares = [f"{100 * statistics.fmean(r.unrestricted[k - 1] for r in rows):.2f} %" for k in RANKS]
        pooled = f"{100 * statistics.fmean(r.pooled[min(4, len(r.pooled)) - 1] for r in rows):.2f} %"
        lines.append(f"| {shape} | {len(rows)} | " + " | ".join([*shares, pooled]) + " |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--group", type=int, default=32)
    options = parser.parse_args()
    if not options.weights.is_file():
        print(f"no weights at {options.weights}: nothing checked", file=sys.stderr)
        return 0
    named = list(matrices(options.weights))
    found = {kind: [check(weight, kind, options.group) for _, weight in named] for kind in KINDS}
    sections = [table(found, options.group), by_shape(named, options.group), by_group([weight for _, weight in named])]
    print("\n\n".join("\n".join(section) for section in sections))
    broken = [kind for kind, rows in found.items() if max(max(r.element, r.requantized) for r in rows) > 1 + 1e-4]
    print(f"broken: {', '.join(broken)}" if broken else "every bound holds", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
