"""One of several choices for each item, the least loss for at most so many bytes: the
multiple-choice knapsack problem (P. Sinha and A. Zoltners, 1979; D. Pisinger, A minimal
algorithm for the multiple-choice knapsack problem, 1995).

A Lagrange multiplier gives a bound that no choice can be below, and its choices; what is left
between bound and choice is searched exactly. Nothing here knows what an item is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import BudgetError

Doubles = npt.NDArray[np.float64]
STATES = 200_000  # partial choices that are held at once, at most


@dataclass(frozen=True, slots=True)
class Choice:
    """What an item may be."""

    size: int  # bytes
    loss: float  # nats


@dataclass(frozen=True, slots=True)
class Solved:
    """The number of each item's choice; their sums; no choice within the budget loses less than
    `bound`."""

    chosen: tuple[int, ...]
    size: int
    loss: float
    bound: float

    @property
    def gap(self) -> float:
        """How far the loss is from the best possible at most, as a part of it."""
        return 0.0 if self.loss <= self.bound else 1 - self.bound / self.loss


@dataclass(frozen=True, slots=True)
class _Step:
    """From one of an item's efficient choices to its next larger one."""

    gain: float  # loss a byte
    item: int
    choice: int
    size: int
    loss: float


def solve(items: Sequence[Sequence[Choice]], budget: int) -> Solved:
    """The best choice of every item within `budget` bytes. Items with the same choices are as
    good in any order: what is chosen depends on the numbers alone.

    BudgetError: not even the smallest choices fit."""
    least = sum(min(one.size for one in choices) for choices in items)
    if least > budget:
        raise BudgetError(
            f"the smallest types take {least:,} bytes, {least - budget:,} more than the "
            f"{budget:,} there are"
        )
    chosen, price = _efficient(items, budget)
    found = _summed(items, chosen)
    if price == 0:
        return Solved(tuple(chosen), *found, found[1])
    bound, reduced = _reduced(items, price, budget)
    better, complete = _searched(items, reduced, found[1] - bound, budget, price)
    if better is not None and _summed(items, better)[1] < found[1]:
        chosen, found = better, _summed(items, better)
    # what was searched completely is the best there is
    return Solved(tuple(chosen), *found, found[1] if complete else min(bound, found[1]))


def curve(items: Sequence[Sequence[Choice]]) -> list[Solved]:
    """All choices that a multiplier can give, from the smallest to the one of least loss: each
    is the best for its size, and between two of them the best lies above their chord."""
    chosen = [_hull(choices)[0] for choices in items]
    size, loss = _summed(items, chosen)
    found = [Solved(tuple(chosen), size, loss, loss)]
    for step in _steps(items):
        before = items[step.item][chosen[step.item]]
        chosen[step.item] = step.choice
        size += step.size - before.size
        loss += step.loss - before.loss
        found.append(Solved(tuple(chosen), size, loss, loss))
    return found


def _summed(items: Sequence[Sequence[Choice]], chosen: Sequence[int]) -> tuple[int, float]:
    picked = [choices[number] for choices, number in zip(items, chosen)]
    return sum(one.size for one in picked), sum(one.loss for one in picked)


def _hull(choices: Sequence[Choice]) -> list[int]:
    """The choices on the lower convex hull of loss over size, the smallest first."""
    order = sorted(range(len(choices)), key=lambda n: (choices[n].size, choices[n].loss, n))
    hull: list[int] = []
    for number in order:
        one = choices[number]
        if hull and one.loss >= choices[hull[-1]].loss:
            continue
        while hull and choices[hull[-1]].size == one.size:
            hull.pop()
        while len(hull) > 1 and _gain(choices, hull[-2], hull[-1]) <= _gain(
            choices, hull[-1], number
        ):
            hull.pop()
        hull.append(number)
    return hull


def _gain(choices: Sequence[Choice], small: int, large: int) -> float:
    a, b = choices[small], choices[large]
    return (a.loss - b.loss) / (b.size - a.size)


def _steps(items: Sequence[Sequence[Choice]]) -> list[_Step]:
    """Every step along every hull, the largest gain a byte first: along one hull they are in
    its order."""
    found = []
    for item, choices in enumerate(items):
        hull = _hull(choices)
        for small, large in zip(hull, hull[1:]):
            gain = _gain(choices, small, large)
            found.append(_Step(gain, item, large, choices[large].size, choices[large].loss))
    found.sort(key=lambda step: (-step.gain, step.item, step.size))
    return found


def _efficient(items: Sequence[Sequence[Choice]], budget: int) -> tuple[list[int], float]:
    """Choices by gain a byte while they fit, and the gain of the first that did not (the
    multiplier of the relaxed problem); 0: all fit."""
    chosen = [_hull(choices)[0] for choices in items]
    left = budget - _summed(items, chosen)[0]
    price = 0.0
    stuck: set[int] = set()
    for step in _steps(items):
        if step.item in stuck:
            continue
        more = step.size - items[step.item][chosen[step.item]].size
        if more <= left:
            chosen[step.item] = step.choice
            left -= more
        else:
            price = price or step.gain
            stuck.add(step.item)
    return chosen, price


def _reduced(
    items: Sequence[Sequence[Choice]], price: float, budget: int
) -> tuple[float, list[Doubles]]:
    """The bound of a multiplier, and by how much each choice of each item is above its best."""
    bound = -price * budget
    reduced = []
    for choices in items:
        costs = np.array([one.loss + price * one.size for one in choices])
        bound += float(costs.min())
        reduced.append(costs - costs.min())
    return bound, reduced


def _searched(
    items: Sequence[Sequence[Choice]],
    reduced: Sequence[Doubles],
    gap: float,
    budget: int,
    price: float,
) -> tuple[list[int] | None, bool]:
    """The best choice by a search of all those whose sums of reduced costs are below the gap
    (no other is better than what is known), and whether it was complete."""
    rounding = 1e-12 * sum(abs(one.loss) + price * one.size for row in items for one in row)
    slack = max(0.0, gap) + rounding
    options = [
        [n for n in range(len(choices)) if costs[n] <= slack]
        for choices, costs in zip(items, reduced)
    ]
    open_items = [item for item, numbers in enumerate(options) if len(numbers) > 1]
    fixed = [min(range(len(costs)), key=lambda n: float(costs[n])) for costs in reduced]
    opened = set(open_items)
    room = budget - sum(
        items[item][number].size for item, number in enumerate(fixed) if item not in opened
    )
    # items that spread most first: what cannot come about is cut early
    open_items.sort(key=lambda item: -float(max(reduced[item][n] for n in options[item])))
    least_left = np.cumsum(
        [0, *(min(items[i][n].size for n in options[i]) for i in reversed(open_items))]
    )[::-1]
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    parents: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    complete = True
    for depth, item in enumerate(open_items):
        numbers = np.array(options[item])
        step_sizes = np.array([items[item][n].size for n in numbers], np.int64)
        step_costs = reduced[item][numbers]
        all_sizes = (sizes[:, None] + step_sizes).reshape(-1)
        all_costs = (costs[:, None] + step_costs).reshape(-1)
        keep = np.flatnonzero(
            (all_costs <= slack) & (all_sizes + least_left[depth + 1] <= room)
        )
        keep = _undominated(keep, all_sizes[keep], all_costs[keep] - price * all_sizes[keep])
        if len(keep) > STATES:
            complete = False
            keep = keep[np.argsort(all_costs[keep], kind="stable")[:STATES]]
        parents.append((keep // len(numbers), numbers[keep % len(numbers)]))
        sizes, costs = all_sizes[keep], all_costs[keep]
        if not len(keep):
            return None, complete
    losses = costs - price * sizes
    at = int(np.argmin(losses))
    for item, (parent, number) in zip(reversed(open_items), reversed(parents)):
        fixed[item] = int(number[at])
        at = int(parent[at])
    return fixed, complete


def _undominated(
    states: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64], losses: Doubles
) -> npt.NDArray[np.intp]:
    """Those states of which no other is at most as large and loses at most as much, by size."""
    order = np.lexsort((states, losses, sizes))
    falling = losses[order]
    least = np.minimum.accumulate(falling)
    kept = np.ones(len(order), bool)
    kept[1:] = falling[1:] < least[:-1]
    return states[order[kept]]
