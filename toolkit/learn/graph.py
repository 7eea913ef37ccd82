"""The Llama graph in float32, forward and backward, a few texts of one length at a time.

Matrices are multiplied by numpy's BLAS. It is close to what the engine computes and not its
definition: activations are not rounded, sums are in BLAS's order, which differs from machine to
machine. Gradients reach whoever asks through a Sink, so that none is held that is not used.

Rotary pairs are (2i, 2i + 1), as in GGUF. Shapes: tokens (texts, length); rows of everything
else are tokens, text after text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qedge.toolkit.make.rope import tables
from qedge.toolkit.source.model import ModelConfig, SourceModel

Floats = npt.NDArray[Any]  # float32; float64 where slopes are checked
Ints = npt.NDArray[np.int32]

EMBEDDING, OUTPUT, OUTPUT_NORM = "token_embd.weight", "output.weight", "output_norm.weight"


class Sink(Protocol):
    """Who takes gradients, in the order of the backward pass."""

    def matrix(self, name: str, inputs: Floats, slopes: Floats) -> None:
        """inputs (tokens, columns) were multiplied with a matrix; slopes (tokens, rows): the
        loss by each of the products."""

    def vector(self, name: str, slopes: Floats) -> None:
        """The loss by a norm's weights."""

    def lookup(self, name: str, tokens: Ints, slopes: Floats) -> None:
        """The loss by the rows that were looked up."""


@dataclass(slots=True)
class _Layer:
    """What the backward pass needs of a layer's forward pass."""

    x: Floats  # the stream before it
    q: Floats  # (texts, kv_heads, group, length, size), turned
    k: Floats  # (texts, kv_heads, 1, length, size), turned
    v: Floats
    mixed: Floats  # attention's outputs
    middle: Floats  # the stream before the feed-forward part
    gate: Floats
    up: Floats


@dataclass(slots=True)
class Pass:
    """A forward pass: logits are (tokens, vocabulary)."""

    tokens: Ints
    layers: list[_Layer]
    last: Floats  # the stream behind the layers
    logits: Floats


def weights_of(source: SourceModel) -> dict[str, Floats]:
    """A model's tensors in float32: matrices (rows, columns), norms (columns)."""
    found = {name: tensor.read(0, tensor.rows) for name, tensor in source.tensors.items()}
    return {name: one[0] if "norm" in name else one for name, one in found.items()}


class Graph:
    """A model's shape for texts of up to `length` tokens."""

    def __init__(self, config: ModelConfig, length: int) -> None:
        self.config = config
        table = np.concatenate(list(tables(config, length)))
        self._cosine = np.ascontiguousarray(table[..., 0])
        self._sine = np.ascontiguousarray(table[..., 1])
        after = np.arange(length)[:, None] < np.arange(length)
        self._hidden = np.where(after, np.float32(-np.inf), np.float32(0))
        self._scale = np.float32(config.head_size**-0.5)
        self.output = EMBEDDING if config.tied else OUTPUT

    # forward

    def forward(self, weights: Mapping[str, Floats], tokens: Ints, *, keep: bool) -> Pass:
        """keep: what a backward pass needs is held, some 28 KB a token and layer of a model
        that is 576 wide."""
        x = weights[EMBEDDING][tokens.reshape(-1)]
        layers = []
        for number in range(self.config.layers):
            x, held = self.layer(weights, number, x, tokens.shape)
            if keep:
                layers.append(held)
        return Pass(tokens, layers, x, self.head(weights, x))

    def head(self, weights: Mapping[str, Floats], x: Floats) -> Floats:
        """The logits of a stream."""
        normed, _ = self._norm(x, weights[OUTPUT_NORM])
        return normed @ weights[self.output].T

    def layer(
        self, weights: Mapping[str, Floats], number: int, x: Floats, shape: tuple[int, ...]
    ) -> tuple[Floats, _Layer]:
        """The stream behind a layer; shape: of the tokens."""
        of = _In(weights, number)
        normed, _ = self._norm(x, of["attn_norm"])
        q = self._turned(self._heads(normed @ of["attn_q"].T, shape), 1)
        k = self._turned(self._heads(normed @ of["attn_k"].T, shape), 1)
        v = self._heads(normed @ of["attn_v"].T, shape)
        mixed = self._rows(self._shares(q, k) @ v)
        middle = x + mixed @ of["attn_output"].T
        normed, _ = self._norm(middle, of["ffn_norm"])
        gate, up = normed @ of["ffn_gate"].T, normed @ of["ffn_up"].T
        y = middle + (gate * _sigmoid(gate) * up) @ of["ffn_down"].T
        return y, _Layer(x, q, k, v, mixed, middle, gate, up)

    # backward

    def backward(
        self, weights: Mapping[str, Floats], done: Pass, slopes: Floats, sink: Sink
    ) -> None:
        """slopes (tokens, vocabulary): the loss by each logit."""
        normed, scale = self._norm(done.last, weights[OUTPUT_NORM])
        sink.matrix(self.output, normed, slopes)
        of_normed = slopes @ weights[self.output]
        dx = self._norm_back(done.last, scale, weights, OUTPUT_NORM, of_normed, sink)
        for number in reversed(range(self.config.layers)):
            dx = self._layer_back(weights, number, done, dx, sink)
            done.layers.pop()
        sink.lookup(EMBEDDING, done.tokens.reshape(-1), dx)

    def _layer_back(
        self, weights: Mapping[str, Floats], number: int, done: Pass, dy: Floats, sink: Sink
    ) -> Floats:
        of, held, shape = _In(weights, number), done.layers[number], done.tokens.shape
        # feed-forward
        share = _sigmoid(held.gate)
        silu = held.gate * share
        sink.matrix(of.name("ffn_down"), silu * held.up, dy)
        of_inner = dy @ of["ffn_down"]
        of_up = of_inner * silu
        of_gate = of_inner * held.up * (share + silu * (1 - share))
        normed, scale = self._norm(held.middle, of["ffn_norm"])
        sink.matrix(of.name("ffn_gate"), normed, of_gate)
        sink.matrix(of.name("ffn_up"), normed, of_up)
        of_normed = of_gate @ of["ffn_gate"] + of_up @ of["ffn_up"]
        dmiddle = dy + self._norm_back(
            held.middle, scale, weights, of.name("ffn_norm"), of_normed, sink
        )
        # attention
        sink.matrix(of.name("attn_output"), held.mixed, dmiddle)
        of_mixed = self._heads(dmiddle @ of["attn_output"], shape)
        shares = self._shares(held.q, held.k)
        of_v = (shares.swapaxes(-1, -2) @ of_mixed).sum(2, keepdims=True)
        of_shares = of_mixed @ held.v.swapaxes(-1, -2)
        of_scores = shares * (of_shares - (of_shares * shares).sum(-1, keepdims=True))
        of_scores *= self._scale
        of_q = self._rows(self._turned(of_scores @ held.k, -1))
        of_k = (of_scores.swapaxes(-1, -2) @ held.q).sum(2, keepdims=True)
        of_k, of_v = self._rows(self._turned(of_k, -1)), self._rows(of_v)
        normed, scale = self._norm(held.x, of["attn_norm"])
        of_normed = np.zeros_like(normed)
        for part, of_part in (("attn_q", of_q), ("attn_k", of_k), ("attn_v", of_v)):
            sink.matrix(of.name(part), normed, of_part)
            of_normed += of_part @ of[part]
        return dmiddle + self._norm_back(
            held.x, scale, weights, of.name("attn_norm"), of_normed, sink
        )

    # parts

    def _norm(self, x: Floats, weights: Floats) -> tuple[Floats, Floats]:
        """RMSNorm's values, and what each row was multiplied with."""
        mean = np.einsum("ij,ij->i", x, x)[:, None] / np.float32(x.shape[1])
        scale = 1 / np.sqrt(mean + np.float32(self.config.norm_eps))
        return x * scale * weights, scale

    def _norm_back(
        self,
        x: Floats,
        scale: Floats,
        weights: Mapping[str, Floats],
        name: str,
        slopes: Floats,
        sink: Sink,
    ) -> Floats:
        plain = x * scale
        sink.vector(name, np.einsum("ij,ij->j", slopes, plain))
        of_plain = slopes * weights[name]
        along = np.einsum("ij,ij->i", of_plain, plain)[:, None] / np.float32(x.shape[1])
        found: Floats = scale * (of_plain - plain * along)
        return found

    def _heads(self, rows: Floats, shape: tuple[int, ...]) -> Floats:
        """(tokens, heads * size) to (texts, kv_heads, group, length, size)."""
        texts, length = shape
        size, kv_heads = self.config.head_size, self.config.kv_heads
        split = rows.reshape(texts, length, kv_heads, -1, size)
        return np.ascontiguousarray(split.transpose(0, 2, 3, 1, 4))

    def _rows(self, heads: Floats) -> Floats:
        texts, _, _, length, _ = heads.shape
        found: Floats = heads.transpose(0, 3, 1, 2, 4).reshape(texts * length, -1)
        return found

    def _turned(self, heads: Floats, sign: int) -> Floats:
        """Rotary pairs turned by their position's angle, or back."""
        length = heads.shape[-2]
        cosine, sine = self._cosine[:length], self._sine[:length] * np.float32(sign)
        first, second = heads[..., 0::2], heads[..., 1::2]
        found = np.empty_like(heads)
        found[..., 0::2] = first * cosine - second * sine
        found[..., 1::2] = second * cosine + first * sine
        return found

    def _shares(self, q: Floats, k: Floats) -> Floats:
        """Attention's weights, (…, length, length)."""
        length = q.shape[-2]
        scores = (q * self._scale) @ k.swapaxes(-1, -2)
        scores += self._hidden[:length, :length]
        return softmax(scores)


class _In:
    """A layer's tensors by their part of the name."""

    def __init__(self, weights: Mapping[str, Floats], number: int) -> None:
        self._weights, self._number = weights, number

    def name(self, part: str) -> str:
        return f"blk.{self._number}.{part}.weight"

    def __getitem__(self, part: str) -> Floats:
        return self._weights[self.name(part)]


def _sigmoid(x: Floats) -> Floats:
    with np.errstate(over="ignore"):
        found: Floats = 1 / (1 + np.exp(-x))
    return found


def softmax(x: Floats) -> Floats:
    """Of the last axis; x is written over."""
    x -= x.max(-1, keepdims=True)
    np.exp(x, out=x)
    x /= x.sum(-1, keepdims=True)
    return x
