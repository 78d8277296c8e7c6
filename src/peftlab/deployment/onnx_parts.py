"""MatMulNBits for few rows, exact and in integers: a function that an ONNX file brings along for onnxruntime to inline.

With float inputs onnxruntime turns every code into a float. With inputs rounded to 8 bits (accuracy level 4; in every block of
inputs, q = round(127 x / max|x|)) it multiplies integers and is several times as fast. So x is split into three rows, two of
which this rounding leaves alone, and one pass over the codes multiplies all three. In every block, with s = max|x| / 127.499:

    hi = s round(x/s)      mid = s/254 round(254 (x - hi)/s)      lo = x - hi - mid      y = W hi + W mid + W lo

Of the largest input, 127 s go to hi. The 0.499 s left are nearest to 127 s/254 in mid. It is the largest of both rows, with 127
steps, so s and s/254 are the very steps in which the operator rounds them. lo is rounded by at most 2^-24 max|x|, as a float is.

This takes an operator that rounds every block by its own maximum, which it does not promise: kernels for ARM round whole rows,
and scales to bfloat16. So every call tries one tiny product whose result tells, and elsewhere floats are multiplied. So they are
where rows are many, since three times as many cost more then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

DOMAIN = "peftlab"


class Few(NamedTuple):
    """Up to how many rows, and from how many weights on, the integers were faster (onnxruntime 1.31, AVX2, one thread)."""

    rows: int
    weights: int


#: by the bits of a code
FEW = {4: Few(4, 2**18), 8: Few(8, 2**15)}
#: of inputs, that MatMulNBits knows
BLOCKS = (256, 128, 64, 32, 16)


def function_name(bits: int, block: int) -> str:
    return f"MatMul{bits}BitsBlocksOf{block}"


def worth_splitting(bits: int, weights: int, axes: Sequence[Any]) -> bool:
    """Whether a layer with so many weights may gain by the function.

    Args:
        axes: of its inputs between the first, which is any number of rows, and the last; one that is no number may be any, too.
    """
    known = all(isinstance(length, int) for length in axes)
    return known and math.prod(axes) <= FEW[bits].rows and weights >= FEW[bits].weights


def define(model: Any) -> None:
    """Add to an ``onnx.ModelProto`` the functions that its nodes call."""
    from onnx import parser

    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    called = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    for bits, block in product(FEW, BLOCKS):
        if function_name(bits, block) in called:
            model.functions.append(parser.parse_function(_text(bits, block, opset)))


def _text(bits: int, block: int, opset: int) -> str:
    """x [rows, K] -> y [rows, N], ``most`` the product of K and few rows.

    The trial: 32 inputs of 127 and 32 of 127/8, weights of 1 + 2^-8. Rounding the whole row adds 2 to the product, bfloat16
    takes 18 away.
    """
    trial = round(32 * (127 + 127 / 8) * (1 + 2**-8))
    options = f"K: int = @K, N: int = @N, bits: int = {bits}, block_size: int = {block}"
    return f"""
<domain: "{DOMAIN}", opset_import: ["" : {opset}, "com.microsoft" : 1]>
{function_name(bits, block)} <K, N, most> (x, codes, scale) => (y) {{
    inputs = Size (x)
    limit = Constant <value_int: int = @most> ()
    few = LessOrEqual (inputs, limit)

    wide = Constant <value_ints: ints = [2, 32]> ()
    pair = Constant <value: tensor = float[2, 1] {{127.0, 15.875}}> ()
    both = Expand (pair, wide)
    row = Constant <value_ints: ints = [1, 64]> ()
    known = Reshape (both, row)
    zero = Constant <value_float: float = 0.0> ()
    tried = Where (few, known, zero)
    size = Constant <value_ints: ints = [1, 2, {4 * bits}]> ()
    ones = ConstantOfShape <value: tensor = uint8[1] {{ {0x99 if bits == 4 else 0x81} }}> (size)
    two = Constant <value_ints: ints = [2]> ()
    steps = ConstantOfShape <value: tensor = float[1] {{1.00390625}}> (two)
    found = com.microsoft.MatMulNBits
        <K: int = 64, N: int = 1, bits: int = {bits}, block_size: int = 32, accuracy_level: int = 4> (tried, ones, steps)
    whole = Round (found)
    wanted = Constant <value_float: float = {trial}.0> ()
    split = Equal (whole, wanted)

    y = If (split) <
        then_branch = integers () => (of_integers) {{
            blockwise = Constant <value_ints: ints = [0, 1, -1, {block}]> ()
            blocks = Reshape (x, blockwise)
            sizes = Abs (blocks)
            inner = Constant <value_ints: ints = [3]> ()
            largest = ReduceMax (sizes, inner)
            part = Constant <value_float: float = {1 / 127.499}> ()
            step = Mul (largest, part)
            tiny = Constant <value_float: float = 1e-30> ()
            s = Max (step, tiny)
            units = Div (blocks, s)
            hi = Round (units)
            left = Sub (units, hi)
            finer = Constant <value_float: float = 254.0> ()
            fine = Mul (left, finer)
            nearest = Round (fine)
            mid = Div (nearest, finer)
            lo = Sub (left, mid)
            together = Concat <axis: int = 1> (hi, mid, lo)
            scaled = Mul (together, s)
            three = Constant <value_ints: ints = [0, 3, -1]> ()
            parts = Reshape (scaled, three)
            products = com.microsoft.MatMulNBits
                <{options}, accuracy_level: int = 4> (parts, codes, scale)
            of_hi, of_mid, of_lo = Split <axis: int = 1, num_outputs: int = 3> (products)
            sum = Sum (of_lo, of_mid, of_hi)
            flat = Constant <value_ints: ints = [0, -1]> ()
            of_integers = Reshape (sum, flat)
        }},
        else_branch = floats () => (of_floats) {{
            of_floats = com.microsoft.MatMulNBits
                <{options}, accuracy_level: int = 1> (x, codes, scale)
        }}
    >
}}
"""
