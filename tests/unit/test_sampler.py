"""The sampler of SPEC 2.11, against a few lines of Python that follow the page."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qedge.runtime import Model


@pytest.fixture(scope="module")
def model(tiny_image: Path) -> Iterator[Model]:
    with Model.open(tiny_image) as opened:
        yield opened


def draw(model: Model, count: int, **options: float) -> Counter[int]:
    """How often each token is drawn after one fixed prompt."""
    found: Counter[int] = Counter()
    for seed in range(count):
        list(model.generate([5, 9, 14], 1, seed=seed, **options))
        found[model.tokens[0]] += 1
    return found


def probabilities(model: Model, temperature: float) -> np.ndarray:
    list(model.generate([5, 9, 14], 1))
    logits = model.logits().astype(np.float64) / temperature
    e = np.exp(logits - logits.max())
    return e / e.sum()


def test_zero_temperature_takes_the_largest_logit(model: Model) -> None:
    list(model.generate([5, 9, 14], 1))
    assert model.tokens[0] == int(np.argmax(model.logits()))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(model: Model, temperature: float) -> None:
    count = 4000
    p = probabilities(model, temperature)
    found = draw(model, count, temperature=temperature)
    for token in np.argsort(p)[-8:]:
        spread = 5 * np.sqrt(count * p[token] * (1 - p[token])) + 1
        assert abs(found[int(token)] - count * p[token]) < spread


def test_top_k_keeps_exactly_the_k_largest(model: Model) -> None:
    p = probabilities(model, 1.0)
    kept = set(np.argsort(-p, kind="stable")[:5].tolist())
    assert set(draw(model, 400, temperature=5.0, top_k=5)) == kept


def test_top_p_keeps_the_smallest_set_that_reaches_p(model: Model) -> None:
    p = probabilities(model, 1.0)
    order = np.argsort(-p, kind="stable")
    count = int(np.searchsorted(np.cumsum(p[order]), 0.1)) + 1
    assert set(draw(model, 3000, temperature=20.0, top_p=0.1)) == set(order[:count].tolist())


def test_min_p_drops_what_is_far_below_the_best(model: Model) -> None:
    p = probabilities(model, 1.0)
    kept = set(np.flatnonzero(p >= 0.8 * p.max()).tolist())
    assert set(draw(model, 1500, temperature=20.0, min_p=0.8)) == kept


def test_top_p_of_zero_is_greedy(model: Model) -> None:
    assert len(draw(model, 30, temperature=9.0, top_p=0.0)) == 1


def test_repetition_penalty_divides_or_multiplies_each_seen_token_once(model: Model) -> None:
    engine = model.engine
    model.reset()
    model.evaluate([5, 9, 5, 5])
    before = model.logits().copy()
    engine.set_sampler(0.0, 0, 1.0, 0.0, 2.0, 0)
    token = engine.sample()
    after = before.copy()
    for seen in (5, 9):
        after[seen] = before[seen] / 2 if before[seen] > 0 else before[seen] * 2
    assert np.array_equal(model.logits(), after)
    assert token == int(np.argmax(after))


def test_draw_is_the_page_word_for_word(model: Model) -> None:
    def splitmix(state: int) -> int:
        mask = (1 << 64) - 1
        z = state = (state + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & mask
        return z ^ z >> 31

    def exp(x: float) -> float:
        f = np.float32
        if not x > f(-44.3614196777):
            return f(0)
        t = f(x) * f(float.fromhex("0x1.715476p+0")) + f(12582912.0)
        n = t - f(12582912.0)
        r = (f(x) - n * f(0.693359375)) - n * f(-2.12194440e-4)
        p = f(float.fromhex("0x1.6a23cep-10"))
        for c in ("0x1.123a2p-7", "0x1.5558f2p-5", "0x1.555492p-3", "0x1.fffffcp-2"):
            p = p * r + f(float.fromhex(c))
        y = ((p * r) * r + r) + f(1)
        return y * f(2.0 ** int(n))

    for seed in range(25):
        list(model.generate([5, 9, 14], 1, temperature=0.7, seed=seed))
        logits = model.logits()
        scale = np.float32(1) / np.float32(0.7)
        weights = [int(exp((x - logits.max()) * scale) * np.float32(2**30)) | 1 for x in logits]
        left = splitmix(seed) * sum(weights) >> 64
        token = 0
        while left >= weights[token]:
            left -= weights[token]
            token += 1
        assert model.tokens == [token], struct.pack("<Q", seed)
