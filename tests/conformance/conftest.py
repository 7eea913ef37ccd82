"""Fixtures of the conformance tests: built programs, and tiny images that cover every path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from support.shared import shared_folder
from support.tiny_models import TinyConfig, make_weights, write_gguf
from support.toolchains import Programs

from qedge.runtime.model import Model
from qedge.toolkit import board
from qedge.toolkit.make.build import build

PROMPT = [
    (7 * i * i + 3 * i + 1) % 300 for i in range(70)
]  # two batches of 64, three of V's 32
TOKENS = 6


@dataclass(frozen=True, slots=True)
class Shape:
    """How a tiny image is built. rough: zero blocks and blocks of extreme scales."""

    quant: str
    kv: str
    config: TinyConfig = field(default_factory=TinyConfig)
    layout: int = 16
    rough: bool = False


_WIDE = TinyConfig(dim=128, heads=4, kv_heads=2, ffn=160)  # heads of 32, as the fast sets want
_K = TinyConfig(dim=256, heads=4, kv_heads=2, ffn=256)  # rows of whole super-blocks
SHAPES = {
    "q4_0, kv q8_0, heads of 32": Shape("q4_0", "q8_0", _WIDE),
    "q8_0, kv q8_0, heads of 32": Shape("q8_0", "q8_0", _WIDE),
    "q8_0, kv q8_0, heads of 64 in threes": Shape(
        "q8_0", "q8_0", TinyConfig(dim=96, heads=3, kv_heads=1, head_size=64, tied=False)
    ),
    "q4_0, kv f16, heads of 8": Shape("q4_0", "f16"),
    "q8_0, kv q8_0, ffn of 172, heads of 8": Shape("q8_0", "q8_0", TinyConfig(ffn=172)),
    "q4_0, kv q8_0, heads of 40, ffn of 172": Shape(
        "q4_0",
        "q8_0",
        TinyConfig(dim=40, heads=5, kv_heads=5, head_size=40, ffn=172, tied=False),
    ),
    "f16, kv f16, as many key heads": Shape("f16", "f16", TinyConfig(kv_heads=8)),
    "f16, kv f32, heads of 12": Shape("f16", "f32", TinyConfig(dim=96)),
    "f32, kv f32, ffn of 172": Shape("f32", "f32", TinyConfig(ffn=172)),
    "f32, kv q8_0, heads of 32": Shape("f32", "q8_0", _WIDE),
    "a4, kv q8_0, heads of 32": Shape("a4", "q8_0", _WIDE),
    "a6, kv q8_0, ffn of 172, heads of 8": Shape("a6", "q8_0", TinyConfig(ffn=172)),
    "a2, kv q8_0, ffn of 172": Shape("a2", "q8_0", TinyConfig(ffn=172)),
    "a3, rough": Shape("a3", "q8_0", _WIDE, rough=True),
    "q5_1, kv q8_0": Shape("q5_1", "q8_0", _WIDE),
    "q4_K, kv q8_0": Shape("q4_K", "q8_0", _K),
    "q6_K, rough": Shape("q6_K", "q8_0", _K, rough=True),
    "q2_K, kv q8_0": Shape("q2_K", "q8_0", _K),
    "q8_0, rough": Shape("q8_0", "q8_0", _WIDE, rough=True),
    "q4_0, rough": Shape("q4_0", "q8_0", _WIDE, rough=True),
}


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(shared_folder(tmp_path_factory, "programs"))


@pytest.fixture(scope="session")
def make_image(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An image of a shape, built once."""
    folder = tmp_path_factory.mktemp("images")
    images: dict[tuple[Shape, int], Path] = {}

    def make(shape: Shape, context: int = 96) -> Path:
        if (key := (shape, context)) not in images:
            weights = make_weights(11, shape.config)
            if shape.rough:
                weights["blk.0.ffn_down.weight"][3] = 0.0
                weights["blk.0.attn_v.weight"][:, :32] = 0.0
                weights["blk.0.attn_q.weight"][1] *= 1e-7  # its scale is a subnormal half
                weights["blk.1.ffn_up.weight"][5] *= 3e5
                weights["blk.1.attn_k.weight"][:, 32:64] *= 1e3
                weights["token_embd.weight"][PROMPT[4]] = 0.0
            path = folder / f"{len(images)}"
            write_gguf(path.with_suffix(".gguf"), shape.config, weights)
            planned = replace(board.load("x86-64"), layout_rows=shape.layout)
            images[key] = path.with_suffix(".qimg")
            build(
                path.with_suffix(".gguf"),
                planned,
                images[key],
                quant=shape.quant,
                kv=shape.kv,
                context=context,
            )
        return images[key]

    return make


@dataclass(frozen=True, slots=True)
class Truth:
    """An image, and what the Python runtime says of it on one thread with plain C."""

    image: Path
    tokens: list[int]
    logits_hash: str
    options: tuple[str, ...]  # of engine_check, for the same prompt


@pytest.fixture(scope="session")
def truth_of() -> Callable[[Path], Truth]:
    found: dict[Path, Truth] = {}

    def truth(image: Path) -> Truth:
        if image not in found:
            with Model.open(image, threads=1, kernels="portable") as model:
                tokens, digest = model.greedy(PROMPT, TOKENS)
            options = ("--prompt", ",".join(map(str, PROMPT)), "--tokens", str(TOKENS))
            found[image] = Truth(image, tokens, digest, (str(image), *options))
        return found[image]

    return truth


@pytest.fixture(scope="session", params=SHAPES)
def truth(
    request: pytest.FixtureRequest,
    make_image: Callable[[Shape], Path],
    truth_of: Callable[[Path], Truth],
) -> Truth:
    """One of the tiny images after the other."""
    return truth_of(make_image(SHAPES[request.param]))
