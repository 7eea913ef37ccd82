"""The float32 graph: its logits are the engine's, its gradients those of small steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime.model import Model
from qedge.toolkit.board import load
from qedge.toolkit.learn.graph import EMBEDDING, Graph, softmax, weights_of
from qedge.toolkit.make.build import build
from qedge.toolkit.source.opening import open_source

SHAPES = {
    "grouped heads, tied": TinyConfig(),
    "a head of its own size, untied": TinyConfig(
        dim=96, heads=3, kv_heads=1, head_size=64, tied=False
    ),
    "one layer": TinyConfig(layers=1, kv_heads=8),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES)
def tiny(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, request.param, make_weights(3, request.param))
    return path


def texts(vocab_size: int, count: int, length: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, vocab_size, (count, length)).astype(np.int32)


def test_logits_are_the_engines(tiny: Path):
    source = open_source(tiny)
    tokens = texts(source.config.vocab_size, 2, 20)
    found = Graph(source.config, 24).forward(weights_of(source), tokens, keep=False).logits
    image = build(tiny, load("x86-64"), tiny.with_suffix(".qimg"), quant="f32", kv="f32").image
    rows = []
    with Model.open(image) as model:
        for text in tokens:
            model.reset()
            for token in text:
                model.evaluate([int(token)])
                rows.append(model.logits().copy())
    assert np.abs(found - np.stack(rows)).max() < 1e-4 * np.abs(found).max()


class Gradients:
    """A Sink that holds them all."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.found: dict[str, np.ndarray] = {}

    def add(self, name: str, slopes: np.ndarray) -> None:
        self.found[name] = self.found.get(name, 0) + slopes

    def matrix(self, name: str, inputs: np.ndarray, slopes: np.ndarray) -> None:
        self.add(name, slopes.T @ inputs)

    def vector(self, name: str, slopes: np.ndarray) -> None:
        self.add(name, slopes)

    def lookup(self, name: str, tokens: np.ndarray, slopes: np.ndarray) -> None:
        table = np.zeros((self.rows, slopes.shape[1]))
        np.add.at(table, tokens, slopes)
        self.add(name, table)


def test_gradients_are_those_of_small_steps(tiny: Path):
    source = open_source(tiny)
    weights = {name: one.astype(np.float64) for name, one in weights_of(source).items()}
    size, graph = source.config.vocab_size, Graph(source.config, 16)
    tokens, rng = texts(size, 2, 12), np.random.default_rng(6)
    slopes = rng.standard_normal((24, size))

    def loss() -> float:
        return float((graph.forward(weights, tokens, keep=False).logits * slopes).sum())

    sink = Gradients(size)
    graph.backward(weights, graph.forward(weights, tokens, keep=True), slopes, sink)
    assert set(sink.found) == set(weights)
    for name, values in weights.items():
        place = tuple(int(rng.integers(0, n)) for n in values.shape)
        if name == EMBEDDING:
            place = (int(tokens[0, 3]), 5)
        before, step = values[place], 1e-5
        values[place] = before + step
        above = loss()
        values[place] = before - step
        slope = (above - loss()) / (2 * step)
        values[place] = before
        assert slope == pytest.approx(sink.found[name][place], rel=1e-5, abs=1e-6), name


def test_shares_add_up_to_one():
    found = softmax(np.array([[1e4, 1e4 - 1, -np.inf], [0, 0, 0]], np.float32))
    assert found.sum(1) == pytest.approx([1, 1]) and found[0, 2] == 0
