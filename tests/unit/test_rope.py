"""RoPE tables: right to float32's rounding, and the same bits everywhere."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from qedge.toolkit.make import rope
from qedge.toolkit.source.model import ModelConfig, RopeScaling

CONFIG = ModelConfig(
    architecture="llama",
    name="table",
    layers=1,
    dim=64,
    ffn=64,
    heads=1,
    kv_heads=1,
    head_size=64,
    vocab_size=300,
    context=1 << 17,
    norm_eps=1e-5,
    rope_base=500000.0,
    rope_scaling=None,
    tied=True,
)


def whole(config: ModelConfig, context: int) -> np.ndarray:
    return np.concatenate(list(rope.tables(config, context)))


def test_table_is_cosine_and_sine_to_float32_rounding() -> None:
    table = whole(CONFIG, 3000)
    positions = np.arange(3000, dtype=np.float64)[:, None]
    angle = positions * CONFIG.rope_base ** (-np.arange(0, 64, 2) / 64.0)
    assert np.abs(table[..., 0] - np.cos(angle)).max() < 6e-8 + 3000 * 1e-15
    assert np.abs(table[..., 1] - np.sin(angle)).max() < 6e-8 + 3000 * 1e-15


def test_position_zero_does_not_turn() -> None:
    first = whole(CONFIG, 1)[0]
    assert (first[:, 0] == 1).all() and (first[:, 1] == 0).all()


def test_table_has_the_same_bits_on_every_host() -> None:
    digest = hashlib.sha256(whole(CONFIG, 2048).astype("<f4").tobytes()).hexdigest()
    assert digest == "7f92f101edddc8719dcfd3e0260e58790408ac23b161901a6420e5a2d52ad8f9"


def test_linear_scaling_divides_positions() -> None:
    scaled = replace(CONFIG, rope_scaling=RopeScaling("linear", factor=4.0))
    assert np.array_equal(whole(scaled, 401)[::4], whole(CONFIG, 101))


def test_factors_divide_each_frequency() -> None:
    factors = tuple(float(1 + n % 3) for n in range(32))
    table = whole(replace(CONFIG, rope_scaling=RopeScaling("factors", factors=factors)), 50)
    angle = np.arange(50)[:, None] * CONFIG.rope_base ** (-np.arange(0, 64, 2) / 64.0)
    assert np.abs(table[..., 0] - np.cos(angle / np.array(factors))).max() < 1e-7


def test_llama3_scaling_keeps_short_waves_and_stretches_long_ones() -> None:
    scaling = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
    plain = rope.turns(CONFIG).astype(np.float64)
    found = rope.turns(replace(CONFIG, rope_scaling=scaling)).astype(np.float64)
    for index in range(32):
        wavelength = 2 * math.pi * CONFIG.rope_base ** (2 * index / 64)
        if wavelength < 8192 / 4:
            expected = 1.0
        elif wavelength > 8192:
            expected = 1 / 8
        else:
            smooth = (8192 / wavelength - 1) / 3
            expected = (1 - smooth) / 8 + smooth
        assert found[index] / plain[index] == pytest.approx(expected, rel=1e-6)
