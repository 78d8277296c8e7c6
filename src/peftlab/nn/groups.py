"""Group-wise quantization of a weight matrix, and its packed form.

A row of W [d_out, d_in] is cut into L = d_in/g groups of g neighbouring inputs; each group has statistics of its own.

int2 to int8 (asymmetric): W~ = a (q - b)     q in 0 ... Q = 2^bits - 1, scale a = (max - min)/Q, float zero point b = -min/a
nf4, fp4 (code books):    W~ = m book[q] + c  absmax m, offset c: absent until something is merged into it

A constant group gets a = 1, a group of zeros m = 1. Codes are the nearest ones. Where blocks and groups coincide, nf4 and fp4
equal bitsandbytes' to the bit (code books of Dettmers et al. 2023, appendix E, and of bitsandbytes' create_fp8_map).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Literal

import torch

from peftlab.errors import BackboneError, OptionError

GroupKind = Literal["int2", "int3", "int4", "int8", "nf4", "fp4"]
_NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
_FP4 = tuple(sign * value / 12 for sign in (1, -1) for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
#: kind -> its 16 values; the other kinds are integers
BOOKS: dict[str, tuple[float, ...]] = {"nf4": _NF4, "fp4": _FP4}
BITS: dict[str, int] = {"int2": 2, "int3": 3, "int4": 4, "int8": 8, "nf4": 4, "fp4": 4}


@dataclasses.dataclass(frozen=True, slots=True)
class Groups:
    """A quantized matrix: ``codes`` [d_out, d_in] uint8; ``scale`` [d_out, L], a or m; ``shift`` [d_out, L], b or c (or None)."""

    kind: str
    codes: torch.Tensor
    scale: torch.Tensor
    shift: torch.Tensor | None

    def dequantize(self) -> torch.Tensor:
        """W~ [d_out, d_in], float32."""
        integers = self.kind not in BOOKS
        values = self.codes.float() if integers else torch.tensor(BOOKS[self.kind], device=self.codes.device)[self.codes.long()]
        return scaled(values, self.kind, self.scale, self.shift)


def scaled(values: torch.Tensor, kind: str, scale: torch.Tensor, shift: torch.Tensor | None) -> torch.Tensor:
    """W~ from the values [d_out, d_in] of the codes; writes into ``values``."""
    grouped = values.view(*scale.shape, -1)
    if kind not in BOOKS and shift is not None:
        grouped.sub_(shift.unsqueeze(-1))
    grouped.mul_(scale.unsqueeze(-1))
    if kind in BOOKS and shift is not None:
        grouped.add_(shift.unsqueeze(-1))
    return values


def quantize_groups(weight: torch.Tensor, group_size: int, kind: GroupKind, where: str = "") -> Groups:
    """Quantize W [d_out, d_in].

    Raises:
        OptionError: ``group_size`` does not divide d_in.
        BackboneError: a weight is not finite.
    """
    d_out, d_in = weight.shape
    check_group_size(d_in, group_size, where)
    grouped = weight.detach().float().reshape(d_out, d_in // group_size, group_size)
    if weight.device.type != "meta" and not bool(grouped.isfinite().all()):
        raise BackboneError("a weight is not finite", where=where, remedy="use other weights")
    quantize = _to_book if kind in BOOKS else _to_integers
    codes, scale, shift = quantize(grouped, kind)
    return Groups(kind, codes.to(torch.uint8).view(d_out, d_in), scale, shift)


def _to_integers(grouped: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    highest = 2 ** BITS[kind] - 1
    low, high = grouped.amin(-1), grouped.amax(-1)
    scale = high / highest - low / highest  # the difference itself could overflow
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    codes = ((grouped - low.unsqueeze(-1)) / scale.unsqueeze(-1)).round_().clamp_(0, highest)
    return codes, scale, -low / scale


def _to_book(grouped: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor, None]:
    book = torch.tensor(BOOKS[kind], device=grouped.device)
    order = torch.argsort(book)
    bounds = (book[order[:-1]] + book[order[1:]]) / 2
    scale = grouped.abs().amax(-1)
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    relative = (grouped * (1.0 / scale.clamp(min=1e-38)).unsqueeze(-1)).clamp_(-1, 1)
    return order[torch.bucketize(relative, bounds)], scale, None


def check_group_size(d_in: int, group_size: int, where: str = "") -> None:
    """Raises OptionError, naming the divisors of d_in on both sides, unless ``group_size`` is one."""
    if group_size > 0 and d_in % group_size == 0:
        return
    divisors = [n for n in range(1, d_in + 1) if d_in % n == 0]
    below, above = [n for n in divisors if n < group_size][-2:], [n for n in divisors if n > group_size][:2]
    raise OptionError(
        f"group size {group_size} does not divide the {d_in} inputs",
        where=where or "group_size",
        remedy=f"use a divisor, e.g. {', '.join(map(str, below + above))}",
    )


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes as a string of bits, the first in the highest bits of its byte (4 bits: as bitsandbytes does), zeros after the last.

    3 bits: eight codes in three bytes, of which the last codes take as many as they reach into.
    """
    flat = codes.reshape(-1)
    if bits == 8:
        return flat.contiguous()
    each = 8 // math.gcd(bits, 8)  # codes that fill whole bytes
    if flat.numel() % each:
        flat = torch.cat([flat, flat.new_zeros(-flat.numel() % each)])
    if bits == 4:
        return (flat[::2] << 4) | flat[1::2]
    word = (flat.view(-1, each).int() << _places(each, bits, flat.device)).sum(1, dtype=torch.int32)
    held = (word.unsqueeze(1) >> _places(each * bits // 8, 8, flat.device)).bitwise_and_(255).to(torch.uint8)
    return held.view(-1)[: -(-bits * codes.numel() // 8)].clone()


def unpack(packed: torch.Tensor, bits: int, shape: tuple[int, int]) -> torch.Tensor:
    """Inverse of :func:`pack`."""
    if bits == 8:
        return packed.view(shape)
    if bits == 4:
        return torch.stack((packed >> 4, packed & 15), dim=-1).view(-1)[: shape[0] * shape[1]].view(shape)
    each = 8 // math.gcd(bits, 8)
    held = each * bits // 8
    if packed.numel() % held:
        packed = torch.cat([packed, packed.new_zeros(-packed.numel() % held)])
    word = (packed.view(-1, held).int() << _places(held, 8, packed.device)).sum(1, dtype=torch.int32)
    codes = (word.unsqueeze(1) >> _places(each, bits, packed.device)).bitwise_and_(2**bits - 1).to(torch.uint8)
    return codes.view(-1)[: shape[0] * shape[1]].view(shape)


def _places(number: int, bits: int, device: torch.device) -> torch.Tensor:
    """How far from the low end each of ``number`` fields of ``bits`` lies in a word, the first highest."""
    return torch.arange(number - 1, -1, -1, dtype=torch.int32, device=device) * bits


def packed_values(packed: torch.Tensor, kind: str, shape: tuple[int, int]) -> torch.Tensor:
    """The values [d_out, d_in] of packed codes: the integers, or the entries of the code book."""
    if kind not in BOOKS:
        return unpack(packed, BITS[kind], shape).float()
    pairs = _byte_values(kind, packed.device).index_select(0, packed.int())  # a byte at a time: half the look-ups
    return pairs.view(-1)[: shape[0] * shape[1]].view(shape)


def _byte_values(kind: str, device: torch.device) -> torch.Tensor:
    """[256, 2]: the two values that each byte stands for."""
    book = torch.tensor(BOOKS[kind], device=device)
    return torch.stack((book.repeat_interleave(16), book.repeat(16)), dim=1)


def half_gap(kind: str) -> float:
    """Half of the largest distance between neighbours of a code book."""
    book = sorted(BOOKS[kind])
    return max(b - a for a, b in itertools.pairwise(book)) / 2


def stored_bytes(d_in: int, d_out: int, group_size: int, kind: str, *, merged: bool = False) -> int:
    """ceil(bits d_in d_out / 8) + 4 bytes per statistic: two a group, one for a code book that nothing was merged into."""
    statistics = 1 if kind in BOOKS and not merged else 2
    return -(-BITS[kind] * d_in * d_out // 8) + 4 * statistics * d_out * (d_in // group_size)
