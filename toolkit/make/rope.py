"""RoPE tables, the same bits on every host.

A libm's pow, sin and cos differ by an ulp between machines, so none is used: frequencies are
made
in decimal arithmetic (correctly rounded by its specification), angles are exact 64-bit
fractions
of a turn, and sine and cosine are polynomials in float64 with a fixed order of operations.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Context, Decimal, localcontext

import numpy as np

from qedge.toolkit.source.model import Floats, ModelConfig, RopeScaling

_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
_ROWS = 1024  # positions made at a time


def _scaled(frequency: Decimal, index: int, scaling: RopeScaling | None) -> Decimal:
    """A frequency in radians a position, after the model's scaling (Llama 3: arXiv
    2407.21783)."""
    if scaling is None:
        return frequency
    if scaling.kind == "linear":
        return frequency / Decimal(scaling.factor)
    if scaling.kind == "factors":
        return frequency / Decimal(scaling.factors[index])
    wavelength = 2 * _PI / frequency
    original = Decimal(scaling.original_context)
    low, high = Decimal(scaling.low_freq_factor), Decimal(scaling.high_freq_factor)
    if wavelength < original / high:
        return frequency
    if wavelength > original / low:
        return frequency / Decimal(scaling.factor)
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / Decimal(scaling.factor) + smooth * frequency


def turns(config: ModelConfig) -> np.ndarray:
    """For each of head_size / 2 pairs, the turn a position makes, in units of 2^-64
    (uint64)."""
    with localcontext(Context(prec=60)):
        base = Decimal(config.rope_base)
        steps = []
        for index in range(config.head_size // 2):
            exponent = Decimal(-2 * index) / Decimal(config.head_size)
            frequency = _scaled((exponent * base.ln()).exp(), index, config.rope_scaling)
            turn = frequency / (2 * _PI)
            steps.append(int((turn - int(turn)) * 2**64) & (2**64 - 1))
    return np.array(steps, dtype=np.uint64)


def _sine(x: np.ndarray) -> np.ndarray:
    """sin(2 pi x) for |x| <= 1/8: Taylor to x^17, below float64's rounding there."""
    y = x * 6.283185307179586
    z = y * y
    p = z * (1.0 / 355687428096000.0) - 1.0 / 1307674368000.0
    for divisor in (6227020800.0, -39916800.0, 362880.0, -5040.0, 120.0, -6.0):
        p = z * p + 1.0 / divisor
    return y + y * (z * p)


def _cosine(x: np.ndarray) -> np.ndarray:
    y = x * 6.283185307179586
    z = y * y
    p = z * (1.0 / 20922789888000.0) - 1.0 / 87178291200.0
    for divisor in (479001600.0, -3628800.0, 40320.0, -720.0, 24.0, -2.0):
        p = z * p + 1.0 / divisor
    return 1.0 + z * p


def tables(config: ModelConfig, context: int) -> Iterator[Floats]:
    """Yields the table in pieces: float32 (positions, head_size / 2, 2), cosine then sine."""
    step = turns(config)
    for start in range(0, context, _ROWS):
        positions = np.arange(start, min(start + _ROWS, context), dtype=np.uint64)
        angle = positions[:, None] * step[None, :]  # wraps: whole turns drop out
        octant = (angle + np.uint64(1 << 61)) >> np.uint64(62)  # nearest quarter turn, 0 .. 3
        rest = (angle - (octant << np.uint64(62))).view(np.int64)
        x = rest.astype(np.float64) * 2.0**-64
        sine, cosine = _sine(x), _cosine(x)
        quarter = octant.astype(np.int64) & 3
        table = np.empty((*angle.shape, 2), dtype=np.float32)
        table[..., 0] = np.choose(quarter, [cosine, -sine, -cosine, sine])
        table[..., 1] = np.choose(quarter, [sine, cosine, -sine, -cosine])
        yield table
