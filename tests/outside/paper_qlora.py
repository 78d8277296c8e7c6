"""QLoRA's storage (Dettmers et al. 2023, arXiv:2305.14314) from the papers alone: code books, blocks.

The 8-bit code of the second quantization is the dynamic tree code of "8-bit optimizers" (Dettmers et al. 2022, section 1.3).
"""

from collections.abc import Sequence

from scipy.stats import norm

#: The least probability mass outside the book: the mean of half a step of 16 and half a step of 15 levels.
TAIL = (1 / 32 + 1 / 30) / 2


def nf4() -> list[float]:
    """16 quantiles of a normal distribution: 8 of the positive half, 7 of the negative, a zero; divided by the greatest."""
    positive = [norm.ppf(1 - TAIL - i * (0.5 - TAIL) / 8) for i in range(8)]
    negative = [-norm.ppf(1 - TAIL - i * (0.5 - TAIL) / 7) for i in range(7)]
    values = sorted([*positive, *negative, 0.0])
    return [value / max(values) for value in values]


def fp4() -> list[float]:
    """Sign, two bits of exponent, one of mantissa, as in the authors' library: {0, 1/192, 2/12, 3/12, 4/12, 6/12, 8/12, 1}."""
    positive = [number / 12 for number in (0.0625, 2, 3, 4, 6, 8, 12)]
    return sorted([*(-value for value in positive), 0.0, *positive])


def dynamic8() -> list[float]:
    """256 values: for each of seven powers of ten, 2^i means of equal parts of [0.1, 1] with both signs; and 0 and 1."""
    values = [0.0, 1.0]
    for i in range(7):
        parts = 2**i
        for part in range(parts):
            mean = 0.1 + 0.9 * (part + 0.5) / parts
            values += [mean * 10.0 ** (i - 6), -mean * 10.0 ** (i - 6)]
    return sorted(values)


def nearest(value: float, book: Sequence[float]) -> tuple[int, float]:
    """The index of the nearest entry of a sorted book, and by how much the second nearest is farther away."""
    order = sorted(range(len(book)), key=lambda index: abs(book[index] - value))
    return order[0], abs(book[order[1]] - value) - abs(book[order[0]] - value)


def blocks(values: Sequence[float], size: int, book: Sequence[float]) -> tuple[list[int], list[float], list[float]]:
    """Codes, the absolute maximum of each block of `size` values and how clear each choice of a code was."""
    codes, maxima, margins = [], [], []
    for start in range(0, len(values), size):
        block = values[start : start + size]
        largest = max(abs(value) for value in block)
        maxima.append(largest)
        for value in block:
            code, margin = nearest(value / largest if largest else 0.0, book)
            codes.append(code)
            margins.append(margin)
    return codes, maxima, margins


def decode(codes: Sequence[int], maxima: Sequence[float], size: int, book: Sequence[float]) -> list[float]:
    """book[code] times the absolute maximum of its block."""
    return [book[code] * maxima[index // size] for index, code in enumerate(codes)]


def double(maxima: Sequence[float], size: int = 256) -> tuple[list[float], list[float]]:
    """Block maxima less their mean, in 8-bit codes by blocks of 256, decoded again; and how clear each choice was."""
    mean = sum(maxima) / len(maxima)
    book = dynamic8()
    codes, second, margins = blocks([value - mean for value in maxima], size, book)
    return [mean + value for value in decode(codes, second, size, book)], margins
