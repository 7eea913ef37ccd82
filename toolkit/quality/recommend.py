"""Which format to take, by what was measured: for accuracy, for balance, for size, and for the
hardware; each with its reason in one line."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qedge.runtime.sizes import show_size
from qedge.toolkit.make.advise import worth
from qedge.toolkit.quality.speeds import MEASURED
from qedge.toolkit.quality.statistics import Z

if TYPE_CHECKING:
    from qedge.toolkit.quality.compare import Format

NO_LOSS = 0.001  # nats a token: below it nobody sees a difference
USABLE = 0.1  # nats a token: some 90 % of the tokens would be the same


@dataclass(frozen=True, slots=True)
class Pick:
    """A format to take, and why."""

    goal: str
    quant: str
    reason: str


def recommend(rows: Sequence[Format]) -> tuple[Pick, ...]:
    """Picks of those that fit the board; none when none does."""
    able = [row for row in rows if row.facts.lacks is None]
    if not able:
        return ()
    return (_accuracy(able), _balance(able), _size(able), _hardware(able))


def _loss(row: Format) -> str:
    if row.is_base:
        return "it is the file's own precision"
    found = row.quality
    return f"KL {found.kl_mean:.4f}, {found.top1:.1%} of the top tokens the same"


def _accuracy(able: Sequence[Format]) -> Pick:
    """The smallest of those that cannot be told from the best one, or lose next to nothing."""
    best = min(able, key=lambda row: row.quality.kl_mean).quality
    error = best.kl_mean_error if math.isfinite(best.kl_mean_error) else 0.0
    most = max(NO_LOSS, best.kl_mean + Z * error)
    like = [row for row in able if row.quality.kl_mean <= most]
    row, why = min(like, key=lambda one: one.facts.bytes), ""
    if len(like) > 1 and not row.is_base:
        why = f"; the smallest of {len(like)} that lose at most {most:.4f} nats"
    return Pick("accuracy", row.quant, _loss(row) + why)


def _cost(row: Format) -> float:
    return worth(row.facts.bytes, row.quality.kl_mean)


def _balance(able: Sequence[Format]) -> Pick:
    row = min(able, key=_cost)
    largest = max(able, key=lambda one: one.facts.bytes)
    share = row.facts.bytes / largest.facts.bytes
    return Pick("balance", row.quant, f"{share:.0%} of {largest.quant}'s bytes; {_loss(row)}")


def _size(able: Sequence[Format]) -> Pick:
    least = min(row.facts.bytes for row in able)
    like = [row for row in able if row.facts.bytes <= 1.01 * least]  # the better for 1 %
    row = min(like, key=lambda one: one.quality.kl_mean)
    return Pick("size", row.quant, f"{show_size(row.facts.bytes)}; {_loss(row)}")


def _hardware(able: Sequence[Format]) -> Pick:
    known = [row for row in able if row.speed.decode]
    if not known:
        pick = _balance(able)
        return Pick(
            "hardware", pick.quant, f"no speed is known here; for balance: {pick.reason}"
        )
    usable = [row for row in known if row.quality.kl_mean <= USABLE]
    row = max(usable or known, key=lambda one: one.speed.decode or 0.0)
    if not usable:
        row = min(known, key=lambda one: one.quality.kl_mean)
    how = "" if row.speed.how == MEASURED else f" ({row.speed.how})"
    fast = f"decodes {row.speed.decode:,.1f} tokens/s{how}"
    if not usable:
        return Pick("hardware", row.quant, f"{fast}; faster ones lose more than {USABLE} nats")
    return Pick("hardware", row.quant, f"{fast}, the most below {USABLE} nats; {_loss(row)}")
