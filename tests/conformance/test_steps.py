"""What the workers are given, and what they make of it: lists of steps, and attention split by
heads and positions, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conformance.conftest import Shape
from support.tiny_models import TinyConfig
from support.toolchains import ARM64, NATIVE, Machine, Programs

from qedge.runtime.machine import kernel_sets

USABLE = [name for name, usable in kernel_sets() if usable]
PROMPT = [(7 * i * i + 3 * i + 1) % 300 for i in range(290)]  # beyond QE_SPLIT_FROM
_THREES = TinyConfig(
    dim=96, heads=9, kv_heads=3, head_size=32, ffn=172, vocab_size=1000, context=512
)
SHAPES = {
    "three heads": Shape("q4_0", "q8_0", _THREES),
    "three heads, f16": Shape("q4_0", "f16", _THREES),
    "f32 throughout": Shape("f32", "f32", _THREES),
    "blocks that two heads share": Shape(
        "q8_0",
        "q8_0",
        TinyConfig(dim=96, heads=6, kv_heads=3, head_size=48, vocab_size=1000, context=512),
    ),
    "rows that two heads share": Shape(
        "q8_0",
        "q8_0",
        TinyConfig(dim=96, heads=5, kv_heads=5, head_size=40, vocab_size=1000, context=512),
    ),
    "one head for eight": Shape(
        "q8_0",
        "q8_0",
        TinyConfig(heads=8, kv_heads=1, head_size=64, vocab_size=1000, context=512),
    ),
    "more heads than a pool has sections": Shape(
        "q8_0",
        "q8_0",
        TinyConfig(layers=1, heads=18, kv_heads=18, head_size=16, vocab_size=1000, context=512),
    ),
}


@pytest.mark.parametrize("machine", [NATIVE, ARM64[1]], ids=str)
def test_steps_run_in_order_each_chunk_once_and_alone_behind_a_stall(
    machine: Machine, programs: Programs
) -> None:
    lines = programs.run(machine, "pool_check", 1, 2, 3, 4)
    assert [line["threads"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", SHAPES)
def test_long_contexts_give_one_hash_however_attention_is_split(
    name: str, programs: Programs, make_image: Callable[..., Path]
) -> None:
    image = make_image(SHAPES[name], context=300)
    lines = programs.run(
        NATIVE,
        "engine_check",
        image,
        *("--prompt", ",".join(map(str, PROMPT)), "--tokens", 4, "--kernels", "all"),
        *("--threads", "1,2,3,4,5", "--batch", "1,64"),
    )
    assert len(lines) == 10 * len(USABLE)
    assert len({line["logits_hash"] for line in lines}) == 1
