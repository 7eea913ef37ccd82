"""What every source gives: a configuration, a vocabulary and tensors that are read by rows.

This module knows no file format.  It says which tensors a Llama graph has, in GGUF's names and
in GGUF's order of rotary pairs (2i, 2i + 1), and refuses a model that is not such a graph.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError
from qedge.toolkit.source import blocks
from qedge.toolkit.source.opened import SourceFile, Stretch

if TYPE_CHECKING:
    from qedge.toolkit.source.vocabulary.value import Vocabulary

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

# Far above any model there is, far below what makes a loop or a product absurd.
LAYERS_LIMIT = 1024
SIZE_LIMIT = 1 << 24
CONTEXT_LIMIT = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched; the fields a kind does not use keep their defaults.

    linear   every frequency is divided by `factor`.
    llama3   long wavelengths are divided by `factor`, short ones are not, with a ramp between
             `original_context / low_freq_factor` and `original_context / high_freq_factor`
             (Llama 3.1, transformers' modeling_rope_utils).
    factors  frequency i is divided by `factors[i]`, i < head_size / 2 (rope_freqs.weight).
    """

    kind: str
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    original_context: int = 0
    factors: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Bound:
    """A context up to which the graph is Llama's, and what begins after it: `why` ends before
    the number ("attention slides over a window of")."""

    positions: int
    why: str

    @classmethod
    def window(cls, positions: int, path: Path) -> Bound:
        """A sliding window's: every token sees all before it while they are no more than that.

        ImageError for a window that none could have."""
        if positions < 1:
            raise ImageError(f"{path}: sliding_window is {positions}; it must be at least 1")
        return cls(positions, "its attention slides over a window of")


def shortest(*bounds: Bound | None) -> Bound | None:
    """The bound that is met first; None when there is none."""
    found = [bound for bound in bounds if bound is not None]
    return min(found, key=lambda bound: bound.positions, default=None)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Shape of a Llama graph.  Floats are the numbers of the file, not rounded again."""

    architecture: str
    name: str
    layers: int
    dim: int
    ffn: int
    heads: int
    kv_heads: int
    head_size: int
    vocab_size: int
    context: int  # positions the model was trained for
    norm_eps: float
    rope_base: float
    rope_scaling: RopeScaling | None
    tied: bool  # the output matrix is the embedding
    bound: Bound | None = None  # of the contexts that an image may have

    @property
    def longest(self) -> int:
        """The longest context that an image of it may have, in tokens."""
        return self.context if self.bound is None else min(self.context, self.bound.positions)


@dataclass(frozen=True, slots=True, eq=False)
class SourceTensor:
    """A matrix (rows, columns) in a file; a vector has one row.

    `stored` is where its bytes are, (rows, bytes of a row): a stretch of the file, or an array.
    `row_order`, when there is one, names the stored row of each row: it turns a model of
    half-split rotary order into pairs.
    """

    name: str
    rows: int
    columns: int
    source_type: str
    stored: Stretch | Bytes
    path: Path
    row_order: npt.NDArray[np.intp] | None = None

    def read(self, start_row: int, stop_row: int) -> Floats:
        """Rows start_row to stop_row (exclusive) as a new float32 array (rows, columns).

        ImageError when a weight is not finite."""
        values = blocks.decode(self.stored_rows(start_row, stop_row), self.source_type)
        # max and min carry a NaN through, and cost less than isfinite over the whole array.
        if values.size and not (np.isfinite(values.max()) and np.isfinite(values.min())):
            row = start_row + int(np.argmin(np.isfinite(values).all(axis=1)))
            self.refuse_weight(row)
        return values

    def raw(self, start_row: int, stop_row: int) -> memoryview | None:
        """The untouched bytes of these rows, or None unless the type is one of blocks.COPIED.

        ImageError when a scale or a weight is not finite."""
        if self.source_type not in blocks.COPIED:
            return None
        stored = np.ascontiguousarray(self.stored_rows(start_row, stop_row))
        finite = blocks.finite_rows(stored, self.source_type)
        if not finite.all():
            self.refuse_weight(start_row + int(np.argmin(finite)))
        return stored.reshape(-1).data.toreadonly()

    def spans(self, chunk_bytes: int = 8 << 20) -> Iterator[tuple[int, int]]:
        """(start_row, stop_row) pairs that cover the tensor, each at most about chunk_bytes of
        float32 (at least one row)."""
        step = max(1, chunk_bytes // (4 * self.columns))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def stored_rows(self, start_row: int, stop_row: int) -> Bytes:
        """The bytes of rows start_row to stop_row (exclusive) as the file has them, (rows,
        bytes of a row), in this tensor's order."""
        if not 0 <= start_row <= stop_row <= self.rows:
            raise IndexError(f"{self.name}: rows {start_row}:{stop_row} of {self.rows}")
        if self.row_order is None:
            return self.stored[start_row:stop_row]
        order = self.row_order[start_row:stop_row]
        if not order.size:
            return self.stored[0:0]
        first = int(order.min())  # rows of one or a few heads: they lie together
        return self.stored[first : int(order.max()) + 1][order - first]

    def refuse_weight(self, row: int) -> NoReturn:
        """ImageError: this row holds a weight or a scale that is not finite."""
        raise ImageError(
            f"{self.path}: {self.name} row {row} holds a weight that is not finite; "
            "the file is damaged, fetch or convert it again"
        )


@dataclass(frozen=True, slots=True, eq=False)
class SourceModel:
    """A model as it lies on disk.  `opened` is what sha256() covers, in that order."""

    path: Path
    config: ModelConfig
    vocabulary: Vocabulary
    chat_template: str | None
    tensors: Mapping[str, SourceTensor]
    opened: tuple[SourceFile, ...]
    special_tokens: Mapping[str, str] | None = None  # as templates name them

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(file.path for file in self.opened)

    def stored_type(self) -> str:
        """GGML's name of the type that most weights of the file have."""
        counts: dict[str, int] = {}
        for tensor in self.tensors.values():
            size = tensor.rows * tensor.columns
            counts[tensor.source_type] = counts.get(tensor.source_type, 0) + size
        return max(counts, key=lambda kind: counts[kind])

    def check_unchanged(self) -> None:
        """ImageError when a file of the model is no longer what was opened."""
        for file in self.opened:
            file.check()

    def sha256(self) -> str:
        """Hex digest of the one file, or of the files' digests joined; reads all of them."""
        digests = [file.digest() for file in self.opened]
        if len(digests) == 1:
            return digests[0].hex()
        return hashlib.sha256(b"".join(digests)).hexdigest()


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    """(rows, columns) of every tensor of the graph, in the order of the graph."""
    query_rows = config.heads * config.head_size
    kv_rows = config.kv_heads * config.head_size
    shapes = {"token_embd.weight": (config.vocab_size, config.dim)}
    for layer in range(config.layers):
        block = f"blk.{layer}."
        shapes[block + "attn_norm.weight"] = (1, config.dim)
        shapes[block + "attn_q.weight"] = (query_rows, config.dim)
        shapes[block + "attn_k.weight"] = (kv_rows, config.dim)
        shapes[block + "attn_v.weight"] = (kv_rows, config.dim)
        shapes[block + "attn_output.weight"] = (config.dim, query_rows)
        shapes[block + "ffn_norm.weight"] = (1, config.dim)
        shapes[block + "ffn_gate.weight"] = (config.ffn, config.dim)
        shapes[block + "ffn_up.weight"] = (config.ffn, config.dim)
        shapes[block + "ffn_down.weight"] = (config.dim, config.ffn)
    shapes["output_norm.weight"] = (1, config.dim)
    if not config.tied:
        shapes["output.weight"] = (config.vocab_size, config.dim)
    return shapes


def check_config(config: ModelConfig, path: Path) -> None:
    """ImageError unless the numbers are in range and fit together."""
    limits = {
        "layers": LAYERS_LIMIT,
        "dim": SIZE_LIMIT,
        "ffn": SIZE_LIMIT,
        "heads": SIZE_LIMIT,
        "kv_heads": SIZE_LIMIT,
        "head_size": SIZE_LIMIT,
        "vocab_size": SIZE_LIMIT,
        "context": CONTEXT_LIMIT,
    }
    for field, limit in limits.items():
        value = getattr(config, field)
        if not 1 <= value <= limit:
            raise ImageError(f"{path}: {field} is {value}; a model has 1 to {limit}")
    if config.heads % config.kv_heads:
        raise ImageError(
            f"{path}: {config.heads} heads cannot share {config.kv_heads} key/value heads; "
            "the first must be a multiple of the second"
        )
    if config.head_size % 2:
        raise ImageError(f"{path}: head_size is {config.head_size}; rotary pairs need it even")
    _check_float(config.norm_eps, "norm_eps", path)
    _check_float(config.rope_base, "rope_base", path)
    if config.rope_scaling is not None:
        _check_rope_scaling(config.rope_scaling, config, path)


def _check_rope_scaling(scaling: RopeScaling, config: ModelConfig, path: Path) -> None:
    if scaling.kind in ("linear", "llama3"):
        _check_float(scaling.factor, "rope scaling factor", path)
    if scaling.kind == "llama3":
        _check_float(scaling.low_freq_factor, "rope low_freq_factor", path)
        _check_float(scaling.high_freq_factor, "rope high_freq_factor", path)
        if scaling.low_freq_factor >= scaling.high_freq_factor:
            raise ImageError(
                f"{path}: rope low_freq_factor {scaling.low_freq_factor} must be below "
                f"high_freq_factor {scaling.high_freq_factor}"
            )
        if not 1 <= scaling.original_context <= CONTEXT_LIMIT:
            raise ImageError(
                f"{path}: rope original context is {scaling.original_context}; "
                f"it must be 1 to {CONTEXT_LIMIT}"
            )
    if scaling.kind == "factors":
        if len(scaling.factors) != config.head_size // 2:
            raise ImageError(
                f"{path}: rope_freqs.weight has {len(scaling.factors)} factors, a head of "
                f"{config.head_size} needs {config.head_size // 2}"
            )
        for factor in scaling.factors:
            _check_float(factor, "rope_freqs.weight", path)


def _check_float(value: float, what: str, path: Path) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ImageError(f"{path}: {what} is {value}; it must be finite and above zero")


def _is_empty_bias(tensor: SourceTensor) -> bool:
    """Whether it is a bias of zeros, which adds nothing."""
    small = tensor.name.endswith(".bias") and tensor.rows == 1 and tensor.columns <= SIZE_LIMIT
    return small and not tensor.read(0, 1).any()


def check_tensors(
    config: ModelConfig, tensors: Mapping[str, SourceTensor], path: Path
) -> dict[str, SourceTensor]:
    """The tensors in graph order; ImageError names what is missing, wrong or extra."""
    shapes = expected_shapes(config)
    for name, tensor in tensors.items():
        if name not in shapes and not _is_empty_bias(tensor):
            raise ImageError(
                f"{path}: {name} is not part of a {config.layers}-layer Llama graph; "
                "models with biases, experts or extra norms are not supported"
            )
    for name, shape in shapes.items():
        found = tensors.get(name)
        if found is None:
            raise ImageError(
                f"{path}: tensor {name} is missing (the model says {config.layers} layers); "
                "the file is incomplete or not a Llama"
            )
        if (found.rows, found.columns) != shape:
            raise ImageError(
                f"{path}: {name} is {found.rows} x {found.columns}, "
                f"the configuration calls for {shape[0]} x {shape[1]}"
            )
    return {name: tensors[name] for name in shapes}
