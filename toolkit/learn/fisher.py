"""How much a model's predictions feel an error of each output of each matrix: the diagonal of
the Fisher information, with labels drawn from the model's own predictions (J. Martens and
R. Grosse, arXiv:1503.05671, for one side of a Kronecker product).

If the weights of a matrix are off by e, the KL divergence of a token's predictions is about
half of sum_i rows_i E[(e x)_i^2], x what the matrix is multiplied with.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qedge.toolkit.learn.graph import Floats, Graph, Ints, softmax

Doubles = npt.NDArray[np.float64]
_SEED = 2026


@dataclass(frozen=True, slots=True)
class Fisher:
    """Mean squares of the loss's slopes, a token: by each output of a matrix (rows), and by
    each value of a looked-up row (stream); and how often each token was looked up, of 1."""

    rows: Mapping[str, Doubles]
    stream: Doubles
    frequency: Doubles

    def pack(self) -> bytes:
        buffer = io.BytesIO()
        rows = {f"rows/{name}": one for name, one in self.rows.items()}
        np.savez(buffer, stream=self.stream, frequency=self.frequency, **rows)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def unpack(cls, data: bytes) -> Fisher:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            rows = {
                name.removeprefix("rows/"): stored[name]
                for name in stored.files
                if name.startswith("rows/")
            }
            return cls(rows, stored["stream"], stored["frequency"])


class _Squares:
    """A graph.Sink that adds up squares."""

    def __init__(self, vocab_size: int) -> None:
        self.rows: dict[str, Doubles] = {}
        self.stream: Doubles = np.zeros(1)
        self.frequency = np.zeros(vocab_size)
        self.tokens = 0

    def matrix(self, name: str, inputs: Floats, slopes: Floats) -> None:
        squares = np.einsum("ij,ij->j", slopes, slopes).astype(np.float64)
        self.rows[name] = self.rows.get(name, 0) + squares

    def vector(self, name: str, slopes: Floats) -> None:
        pass

    def lookup(self, name: str, tokens: Ints, slopes: Floats) -> None:
        self.stream = self.stream + np.einsum("ij,ij->j", slopes, slopes).astype(np.float64)
        np.add.at(self.frequency, tokens, 1)
        self.tokens += len(tokens)


def fisher(
    graph: Graph,
    weights: Mapping[str, Floats],
    tokens: Ints,
    progress: Callable[[int, int], None],
) -> Fisher:
    """Over texts (texts, length), one after the other."""
    found, rng = _Squares(graph.config.vocab_size), np.random.default_rng(_SEED)
    for number, text in enumerate(tokens):
        progress(number, len(tokens))
        done = graph.forward(weights, text[None], keep=True)
        slopes = softmax(done.logits)
        drawn = _drawn(slopes, rng)
        slopes[np.arange(len(slopes)), drawn] -= 1
        graph.backward(weights, done, slopes, found)
    progress(len(tokens), len(tokens))
    count = found.tokens
    rows = {name: one / count for name, one in found.rows.items()}
    return Fisher(rows, found.stream / count, found.frequency / count)


def _drawn(shares: Floats, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """A column of each row, drawn by its share."""
    sums = shares.cumsum(1, dtype=np.float64)
    at = (sums < rng.random((len(sums), 1)) * sums[:, -1:]).sum(1)
    found: npt.NDArray[np.intp] = np.minimum(at, shares.shape[1] - 1)
    return found
