"""How fast a board will decode and load, before there is an image.  Decode is bound by memory:
each token reads every weight that it touches once, and the keys and values so far.

Predicted, not measured: docs/prediction.md has the published points behind the boards' figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from qedge.runtime._engine import ROLES, Image
from qedge.runtime.image import KV_NAMES
from qedge.toolkit.board import Board
from qedge.toolkit.make.image import TensorEntry
from qedge.toolkit.source.model import ModelConfig


@dataclass(frozen=True, slots=True)
class Weights:
    """A tensor as decode sees it: its kind (SPEC 3.5), rows, and bytes in the image."""

    kind: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """What is expected of an image on a board; None where the board's figure is not known."""

    read_bytes_per_token: int
    tokens_per_second: float | None
    load_seconds: float | None


def of_entries(entries: Iterable[TensorEntry]) -> list[Weights]:
    """Weights of a tensor table that is yet to be written."""
    return [Weights(entry.kind, entry.rows, entry.bytes) for entry in entries]


def of_image(image: Image) -> list[Weights]:
    """Weights of an opened image."""
    return [Weights(kind, rows, size) for kind, *_, rows, _, size in image.tensors()]


def read_bytes_per_token(weights: Iterable[Weights], kv_bytes: int = 0) -> int:
    """Bytes that decoding a token reads: every weight, but one row alone of an embedding that
    is not the output matrix too; and kv_bytes of keys and values."""
    found = list(weights)
    tied = all(tensor.kind != ROLES["output"] for tensor in found)
    total = kv_bytes
    for tensor in found:
        looked_up = tensor.kind == ROLES["token_embd"] and not tied
        total += tensor.bytes // tensor.rows if looked_up else tensor.bytes
    return total


def kv_bytes(config: ModelConfig | Mapping[str, Any], kv: str, depth: int) -> int:
    """Bytes of keys and values of `depth` positions, for a source's configuration or an
    image's."""
    if isinstance(config, ModelConfig):
        layers, heads, size = config.layers, config.kv_heads, config.head_size
    else:
        layers, heads, size = config["layers"], config["kv_heads"], config["head_size"]
    blocks = -(-size // 32)  # of q8_0, each with an f16 scale
    row = {"f32": 4 * size, "f16": 2 * size, "q8_0": size + 2 * blocks}[kv]
    return 2 * layers * heads * row * depth


def tokens_per_second(board: Board, read_bytes: float) -> float | None:
    """Decode rate when a token reads read_bytes; None when the board's figure is not known."""
    rate = board.linux.read_bytes_per_second if board.linux else 0
    return rate / read_bytes if rate and read_bytes else None


def load_seconds(board: Board, image_bytes: int) -> float | None:
    """Seconds to read an image from storage for the first time; None when not known."""
    rate = board.linux.storage_bytes_per_second if board.linux else 0
    return image_bytes / rate if rate else None


def predict(
    board: Board, weights: Iterable[Weights], image_bytes: int, kv_bytes: int = 0
) -> Prediction:
    """The prediction for an image of image_bytes with these weights."""
    read = read_bytes_per_token(weights, kv_bytes)
    return Prediction(read, tokens_per_second(board, read), load_seconds(board, image_bytes))


def predict_image(board: Board, image: Image, depth: int = 0) -> Prediction:
    """The prediction for an opened image, with `depth` tokens in its cache."""
    cached = kv_bytes(image.config, KV_NAMES[image.plan["kv"]], depth)
    return predict(board, of_image(image), image.bytes, cached)


def predict_measured(board: Board, model: Mapping[str, Any]) -> float | None:
    """Tokens a second for what a board's agent says of the model that it measured:
    tensors as (kind, rows, bytes), configuration, KV type and depth."""
    weights = [Weights(*tensor) for tensor in model["tensors"]]
    read = kv_bytes(model["config"], KV_NAMES[model["kv"]], model["depth"])
    return tokens_per_second(board, read_bytes_per_token(weights, read))
