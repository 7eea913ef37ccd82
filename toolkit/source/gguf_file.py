"""A Llama in a GGUF file: its configuration, and its tensors where they lie in the file.

Keys and tensor names are those of ggml's docs/gguf.md and llama.cpp's `llama` architecture.
Not the file format itself: see gguf_header.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qedge.runtime.errors import ImageError
from qedge.toolkit.source import blocks, special_tokens
from qedge.toolkit.source.gguf_header import Header, TensorEntry, read_header, read_metadata
from qedge.toolkit.source.model import (
    ModelConfig,
    RopeScaling,
    SourceModel,
    SourceTensor,
    check_config,
    check_tensors,
)

__all__ = ["open_gguf", "read_metadata"]

ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"
DEFAULT_ROPE_BASE = 10000.0  # llama.cpp's, when the key is absent
# Keys that change the graph: a value other than the one that means "off" is refused.
UNSUPPORTED_KEYS = {
    "expert_count": 0,
    "attention.sliding_window": 0,
    "attention.clamp_kqv": 0.0,
    "attention.max_alibi_bias": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "logit_scale": 1.0,
    "residual_scale": 1.0,
    "embedding_scale": 1.0,
    "attention.causal": True,
    "use_parallel_residual": False,
}


def open_gguf(path: Path) -> SourceModel:
    """A GGUF of the `llama` architecture; ImageError when it is another or does not add up."""
    from qedge.toolkit import vocabulary

    header = read_header(path)
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture != ARCHITECTURE:
        raise ImageError(
            f"{path}: the architecture is {architecture!r:.60}; "
            f"only {ARCHITECTURE!r} is supported"
        )
    if not header.tensors:
        raise ImageError(f"{path}: holds a vocabulary and no tensors; give the whole model")
    tensors = {entry.name: _tensor(entry, header, path) for entry in header.tensors}
    factors = tensors.pop(ROPE_FACTORS, None)
    config = _Keys(metadata, path).config(tensors, factors)
    check_config(config, path)
    ordered = check_tensors(config, tensors, path)
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise ImageError(f"{path}: tokenizer.chat_template is not text")
    try:
        words = vocabulary.from_gguf(metadata)
        named = special_tokens.of_gguf(metadata)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    return SourceModel(path, config, words, template, ordered, (path,), named)


def _tensor(entry: TensorEntry, header: Header, path: Path) -> SourceTensor:
    """The tensor in place; ImageError unless its type is known and it lies inside the file."""
    try:
        source_type = blocks.type_name(entry.type_number)
        weights, block_bytes = blocks.block_shape(source_type)
    except KeyError as unknown:
        raise ImageError(
            f"{path}: {entry.name} has tensor type {unknown.args[0]}, which cannot be read; "
            "use a Q4_0 to Q8_0, K-quant, IQ, F16, BF16 or F32 file"
        ) from None
    shape = list(entry.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 2 or 0 in shape:
        raise ImageError(f"{path}: {entry.name} has shape {entry.shape}, not a matrix")
    columns = shape[0]
    rows = shape[1] if len(shape) == 2 else 1
    if columns % weights:
        raise ImageError(
            f"{path}: {entry.name} has rows of {columns} weights, "
            f"{source_type} needs a multiple of {weights}"
        )
    row_bytes = columns // weights * block_bytes
    start = header.data_offset + entry.offset
    stop = start + rows * row_bytes
    if stop > header.data.size:
        raise ImageError(
            f"{path}: cut short or damaged: {entry.name} lies at bytes {start} to {stop}, "
            f"the file ends at {header.data.size}; fetch it again"
        )
    stored = header.data[start:stop].reshape(rows, row_bytes)
    return SourceTensor(entry.name, rows, columns, source_type, stored, path)


class _Keys:
    """Typed access to the `llama.` keys of one file."""

    def __init__(self, metadata: dict[str, object], path: Path) -> None:
        self.metadata = metadata
        self.path = path

    def config(
        self, tensors: dict[str, SourceTensor], factors: SourceTensor | None
    ) -> ModelConfig:
        for key, off in UNSUPPORTED_KEYS.items():
            value = self.metadata.get(f"{ARCHITECTURE}.{key}", off)
            if isinstance(value, np.ndarray) or value != off:
                raise ImageError(
                    f"{self.path}: {ARCHITECTURE}.{key} is {value!s:.60}; "
                    f"only {off} is supported"
                )
        dim = self.integer("embedding_length")
        heads = self.integer("attention.head_count")
        return ModelConfig(
            architecture=ARCHITECTURE,
            name=self.name(),
            layers=self.integer("block_count"),
            dim=dim,
            ffn=self.integer("feed_forward_length"),
            heads=heads,
            kv_heads=self.integer("attention.head_count_kv", heads),
            head_size=self.head_size(dim, heads),
            vocab_size=self.vocab_size(tensors),
            context=self.integer("context_length"),
            norm_eps=self.number("attention.layer_norm_rms_epsilon"),
            rope_base=self.number("rope.freq_base", DEFAULT_ROPE_BASE),
            rope_scaling=self.rope_scaling(factors),
            tied="output.weight" not in tensors,
        )

    def name(self) -> str:
        name = self.metadata.get("general.name")
        return name if isinstance(name, str) and name else self.path.stem

    def integer(self, key: str, default: int | None = None) -> int:
        """A count; one for each layer is accepted when all are equal."""
        key = f"{ARCHITECTURE}.{key}"
        value = self.metadata.get(key, default)
        if isinstance(value, np.ndarray) and value.size:
            if (value != value[0]).any():
                raise ImageError(f"{self.path}: {key} differs from layer to layer")
            value = value[0].item()
        if value is None:
            raise ImageError(f"{self.path}: {key} is missing; the file is no complete model")
        if type(value) is not int:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        key = f"{ARCHITECTURE}.{key}"
        value = self.metadata.get(key, default)
        if value is None:
            raise ImageError(f"{self.path}: {key} is missing; the file is no complete model")
        if type(value) is int or type(value) is float:
            return float(value)
        raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a number")

    def head_size(self, dim: int, heads: int) -> int:
        if heads < 1 or ("llama.attention.key_length" not in self.metadata and dim % heads):
            raise ImageError(f"{self.path}: {heads} heads do not divide a dim of {dim}")
        size = self.integer("attention.key_length", dim // heads)
        for key in ("attention.value_length", "rope.dimension_count"):
            other = self.integer(key, size)
            if other != size:
                raise ImageError(
                    f"{self.path}: {ARCHITECTURE}.{key} is {other}, a head is {size}; "
                    "partly rotated or unequal heads are not supported"
                )
        return size

    def vocab_size(self, tensors: dict[str, SourceTensor]) -> int:
        """Rows of the embedding, which the vocabulary and its key must agree with."""
        embedding = tensors.get("token_embd.weight")
        if embedding is None:
            raise ImageError(f"{self.path}: tensor token_embd.weight is missing")
        counts = {f"{ARCHITECTURE}.vocab_size": self.integer("vocab_size", embedding.rows)}
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if isinstance(tokens, list):
            counts["tokenizer.ggml.tokens"] = len(tokens)
        for key, count in counts.items():
            if count != embedding.rows:
                raise ImageError(
                    f"{self.path}: {key} counts {count} tokens, token_embd.weight has "
                    f"{embedding.rows} rows"
                )
        return embedding.rows

    def rope_scaling(self, factors: SourceTensor | None) -> RopeScaling | None:
        kind = self.metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "linear")
        factor = self.number("rope.scaling.factor", self.number("rope.scale_linear", 1.0))
        if not isinstance(kind, str):
            raise ImageError(f"{self.path}: {ARCHITECTURE}.rope.scaling.type is not text")
        if kind == "none" or factor in (0.0, 1.0):  # llama.cpp takes 0 as "not scaled"
            factor = 1.0
        elif kind != "linear":
            raise ImageError(
                f"{self.path}: rope scaling {kind!r:.60} is not supported; "
                "linear, llama3 and explicit factors are"
            )
        if factors is None:
            return None if factor == 1.0 else RopeScaling("linear", factor=factor)
        if factor != 1.0:
            raise ImageError(f"{self.path}: has both {ROPE_FACTORS} and a rope scaling factor")
        if factors.rows != 1 or factors.source_type != "F32":
            raise ImageError(f"{self.path}: {ROPE_FACTORS} is not a vector of F32")
        return RopeScaling("factors", factors=tuple(factors.read(0, 1)[0].tolist()))
