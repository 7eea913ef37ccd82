"""From scored positions to figures with their errors. All standard errors take positions as
independent, as llama.cpp's tool does; sums are exact (math.fsum), so their order is no matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qedge.toolkit.quality.scoring import KL, NLL, NLL_BASE, SAME_TOP, Doubles

Z = 1.959963984540054  # of 95 %
_MOST = 700.0  # exp of more has no double


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far a model's next-token distributions lie from another one's. kl: nats a position;
    *_error: standard errors; top1: share of positions with the same most likely token."""

    perplexity: float
    perplexity_error: float
    perplexity_base: float
    ln_ratio: float  # ln(perplexity / perplexity_base), and its paired error
    ln_ratio_error: float
    kl_mean: float
    kl_mean_error: float
    kl_median: float
    kl_999: float  # 99.9 % of the positions lie at or below it
    top1: float
    top1_error: float
    scored_tokens: int


def mean_and_error(values: Doubles) -> tuple[float, float]:
    """Mean, and sd / sqrt(n - 1) with the sd of the values themselves (divided by n)."""
    count = len(values)
    mean = math.fsum(values) / count
    if count < 2:
        return mean, math.inf
    return mean, math.sqrt(math.fsum((values - mean) ** 2) / count / (count - 1))


def quantile(values: Doubles, share: float) -> float:
    """Between the two nearest values, in proportion."""
    return float(np.quantile(values, share))


def perplexity(nll: Doubles) -> tuple[float, float]:
    """exp of the mean, and its error to first order."""
    mean, error = mean_and_error(nll)
    return exp(mean), exp(mean) * error


def exp(value: float) -> float:
    """e to a power, of a mean that has no bound as large as a double can hold."""
    return math.exp(min(value, _MOST))


def summary(columns: Doubles) -> Divergence:
    """Of (positions, 4), as Scorer.chunk gives them."""
    ours, ours_error = perplexity(columns[:, NLL])
    theirs, _ = perplexity(columns[:, NLL_BASE])
    ratio, ratio_error = mean_and_error(columns[:, NLL] - columns[:, NLL_BASE])
    kl, kl_error = mean_and_error(columns[:, KL])
    count = len(columns)
    top = float(columns[:, SAME_TOP].sum()) / count
    top_error = math.sqrt(top * (1 - top) / (count - 1)) if count > 1 else math.inf
    return Divergence(
        perplexity=ours,
        perplexity_error=ours_error,
        perplexity_base=theirs,
        ln_ratio=ratio,
        ln_ratio_error=ratio_error,
        kl_mean=kl,
        kl_mean_error=kl_error,
        kl_median=quantile(columns[:, KL], 0.5),
        kl_999=quantile(columns[:, KL], 0.999),
        top1=top,
        top1_error=top_error,
        scored_tokens=count,
    )


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share by E. B. Wilson's score (1927)."""
    share, z = right / count, Z * Z / count
    middle = share + z / 2
    half = math.sqrt(z * (share * (1 - share) + z / 4))
    return max(0.0, (middle - half) / (1 + z)), min(1.0, (middle + half) / (1 + z))


def interval(value: float, error: float) -> tuple[float, float]:
    """The 95 % interval of an estimate with a standard error."""
    return value - Z * error, value + Z * error


def joined(parts: Sequence[Doubles]) -> Doubles:
    """Chunks' positions in one array, in order."""
    return np.concatenate(parts)
