"""The solver against every choice there is, and its bound."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from qedge.runtime.errors import BudgetError
from qedge.toolkit.allocate.solver import Choice, curve, solve


def drawn(rng: np.random.Generator, items: int, choices: int) -> list[list[Choice]]:
    return [
        [
            Choice(int(rng.integers(1, 30)), float(rng.random()))
            for _ in range(int(rng.integers(1, choices + 1)))
        ]
        for _ in range(items)
    ]


def size_and_loss(picked: tuple[Choice, ...]) -> tuple[int, float]:
    return sum(one.size for one in picked), sum(one.loss for one in picked)


@pytest.mark.parametrize("seed", range(200))
def test_the_best_of_all_choices_is_found(seed: int):
    rng = np.random.default_rng(seed)
    items = drawn(rng, int(rng.integers(1, 7)), 4)
    every = [size_and_loss(picked) for picked in itertools.product(*items)]
    least, most = min(every)[0], max(every)[0]
    for budget in {least, most, *(int(rng.integers(least, most + 2)) for _ in range(3))}:
        best = min(loss for size, loss in every if size <= budget)
        found = solve(items, budget)
        picked = tuple(row[number] for row, number in zip(items, found.chosen))
        assert size_and_loss(picked) == pytest.approx((found.size, found.loss))
        assert found.size <= budget
        assert found.loss == pytest.approx(best, abs=1e-12)
        assert found.bound <= best + 1e-12
        assert found.gap == 0


def like_a_model(layers: int) -> list[list[Choice]]:
    rng, items = np.random.default_rng(7), []
    for weight in np.tile([0.6, 2, 14, 1, 0.6, 1.1, 1.8], layers):
        size = int(rng.choice([110_592, 331_776, 884_736]))
        loss = weight * size * rng.lognormal(0, 0.6) * 3e-9
        items.append(
            [
                Choice(int(size * bits / 8), loss * 4 ** (4.5 - bits) * rng.uniform(0.9, 1.1))
                for bits in (2.5, 3.5, 4.5, 5.5, 6.5, 8.5)
            ]
        )
    return items


def test_a_model_is_solved_in_two_seconds_and_fills_its_budget():
    items = like_a_model(30)
    least = sum(row[0].size for row in items)
    for budget in (int(least * 1.1), int(least * 1.6), int(least * 2.4)):
        began = time.perf_counter()
        found = solve(items, budget)
        assert time.perf_counter() - began < 2
        assert 0.995 * budget < found.size <= budget
        assert found.gap < 0.001


def test_a_curve_falls_by_less_and_less():
    items = like_a_model(4)
    found = curve(items)
    assert [one.size for one in found] == sorted({one.size for one in found})
    gains = [(a.loss - b.loss) / (b.size - a.size) for a, b in itertools.pairwise(found)]
    assert all(a >= b - 1e-18 for a, b in itertools.pairwise(gains)) and gains[-1] > 0
    for one in found:  # each is the best for its size
        assert solve(items, one.size).loss == pytest.approx(one.loss)


def test_what_does_not_fit_is_refused():
    with pytest.raises(BudgetError, match="smallest types take 30 bytes, 1 more"):
        solve([[Choice(10, 1.0)], [Choice(20, 0.0), Choice(25, 0.0)]], 29)
