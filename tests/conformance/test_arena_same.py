"""The arena's size is a function of the configuration alone: equal on every machine, equal to
SPEC 4, and exact to the byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.conftest import SHAPES, Shape
from support.tiny_models import TinyConfig
from support.toolchains import EMULATED, NATIVE, Machine, Programs

from qedge.runtime.image import open_image
from qedge.runtime.model import Model

F32, F16, Q8_0 = 0, 1, 8
OPTIONS = [  # context, batch, threads, KV type
    (96, 64, 8, Q8_0),
    (96, 64, 8, F16),
    (1, 1, 1, Q8_0),
    (33, 3, 2, Q8_0),
    (95, 512, 64, F16),
    (64, 17, 3, F16),
    (50, 5, 4, F32),
]
NAMES = [
    "q8_0, kv q8_0, heads of 64 in threes",
    "q4_0, kv q8_0, heads of 40, ffn of 172",
    "q8_0, kv q8_0, ffn of 172, heads of 8",
]


def up(n: int, to: int = 32) -> int:
    return -(-n // to) * to


def by_the_specification(c: TinyConfig, context: int, B: int, T: int, kv_type: int) -> int:
    """SPEC 4's table, written down a second time."""
    dim, ffn, vocab, head = up(c.dim), up(c.ffn), up(c.vocab_size), up(c.head)
    att, kv = up(c.heads * c.head), up(c.kv_heads * c.head)
    C, M, wide = up(context), c.heads // c.kv_heads, max(dim, att, ffn)
    cell = {F32: 4 * c.head, F16: 2 * c.head, Q8_0: c.head + 2 * head // 32}[kv_type]
    cache = c.layers * c.kv_heads * C * cell
    arrays = [B * dim * 4] * 2 + [B * att * 4] * 2 + [B * kv * 4] * 2 + [B * ffn * 4] * 2
    arrays += [B * wide] + [B * wide // 32 * 4] * 2 + [vocab * 4] * 2
    arrays += [T * M * C * 4, T * C, T * C // 32 * 4, T * M * head] + [
        T * M * head // 32 * 4
    ] * 2
    arrays += [context * 4, cache, cache]
    return sum(up(array, 64) for array in arrays)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("machine", [NATIVE, *EMULATED], ids=str)
def test_arena_is_as_the_specification_says_and_one_byte_less_is_refused_on(
    machine: Machine, name: str, programs: Programs, make_image: Callable[[Shape], Path]
) -> None:
    path, config = make_image(SHAPES[name]), SHAPES[name].config
    sizes = [part for o in OPTIONS for part in ("--size", ",".join(map(str, o)))]
    # engine_check itself takes each size, between canaries, and offers one byte less before
    lines = programs.run(machine, "engine_check", path, *sizes)
    found = [line["arena_bytes"] for line in lines]
    image = open_image(path)
    assert found == [by_the_specification(config, *o) for o in OPTIONS]
    assert found == [image.session_size(*o) for o in OPTIONS]
    with Model.open(path) as model:
        assert {line["planned_bytes"] for line in lines} == {model.arena_bytes}
