"""QA-LoRA (Xu et al. 2023, arXiv:2309.14717) from the paper alone: groups, min-max integers, pooled update, merge.

A group is `size` neighbouring inputs of one output: W~ = a (W^ - b), one a and b per (group, output).
"""

from collections.abc import Sequence

from tests.outside.paper_qlora import nearest

Matrix = list[list[float]]


def min_max(weight: Matrix, size: int, bits: int) -> tuple[list[list[int]], Matrix, Matrix, Matrix]:
    """Integers W^ [out][in], scales a and float zero points b [group][out], and how clear each rounding was [out][in].

    a = (max - min) / (2^bits - 1), b = -min / a, W^ = round((w - min) / a); a constant group has a = 1.
    """
    groups = len(weight[0]) // size
    scales = [[0.0] * len(weight) for _ in range(groups)]
    zeros = [[0.0] * len(weight) for _ in range(groups)]
    integers: list[list[int]] = []
    margins: Matrix = []
    for o, row in enumerate(weight):
        integers.append([])
        margins.append([])
        for group in range(groups):
            part = row[group * size : (group + 1) * size]
            low, high = min(part), max(part)
            a = (high - low) / (2**bits - 1) if high > low else 1.0
            scales[group][o], zeros[group][o] = a, -low / a
            for value in part:
                level = (value - low) / a
                integers[-1].append(round(level))
                margins[-1].append(abs(abs(level - round(level)) - 0.5))
    return integers, scales, zeros, margins


def decode_integers(integers: Sequence[Sequence[int]], scales: Matrix, zeros: Matrix, size: int) -> Matrix:
    """a (W^ - b): [out][in]."""
    return [[scales[i // size][o] * (code - zeros[i // size][o]) for i, code in enumerate(row)] for o, row in enumerate(integers)]


def code_book(weight: Matrix, size: int, book: Sequence[float]) -> tuple[Matrix, Matrix]:
    """Weights in a code book with the absolute maximum of each (group, output), decoded; and how clear each choice was."""
    decoded, margins = [], []
    for row in weight:
        decoded.append([])
        margins.append([])
        for start in range(0, len(row), size):
            part = row[start : start + size]
            largest = max(abs(value) for value in part) or 1.0
            for value in part:
                code, margin = nearest(value / largest, book)
                decoded[-1].append(book[code] * largest)
                margins[-1].append(margin)
    return decoded, margins


def product(b: Matrix, a: Matrix) -> Matrix:
    """B A: [out][group]."""
    return [[sum(row[k] * a[k][group] for k in range(len(a))) for group in range(len(a[0]))] for row in b]


def pooled(x: Sequence[float], size: int) -> list[float]:
    """The mean of each group of inputs."""
    return [sum(x[start : start + size]) / size for start in range(0, len(x), size)]


def output(x: Sequence[float], weight: Matrix, b: Matrix, a: Matrix, *, scale: float, size: int) -> list[float]:
    """y = W~ x + s g B A mean_g(x) for one input."""
    update = product(b, a)
    means = pooled(x, size)
    return [
        sum(w * value for w, value in zip(row, x, strict=True))
        + scale * size * sum(update[o][group] * mean for group, mean in enumerate(means))
        for o, row in enumerate(weight)
    ]


def merged_zeros(scales: Matrix, zeros: Matrix, b: Matrix, a: Matrix, scale: float) -> Matrix:
    """b' = b - s (B A)^T / a: the integers and scales stay."""
    update = product(b, a)
    return [[zero - scale * update[o][group] / scales[group][o] for o, zero in enumerate(row)] for group, row in enumerate(zeros)]


def with_offsets(decoded: Matrix, b: Matrix, a: Matrix, *, scale: float, size: int) -> Matrix:
    """The merge into a code book: s B A added to the offset of every (group, output)."""
    update = product(b, a)
    return [[value + scale * update[o][i // size] for i, value in enumerate(row)] for o, row in enumerate(decoded)]
