"""A llama2.c checkpoint: seven integers, then float32 tensors (version 0, export.py).

Not the newer `ak42` versions, which put a magic number first, and not its tokenizer.bin.
Rotary pairs are adjacent already, as in GGUF.
"""

from __future__ import annotations

import struct
from pathlib import Path

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.model import (
    ModelConfig,
    SourceModel,
    SourceTensor,
    check_config,
    check_tensors,
)
from qedge.toolkit.source.opened import SourceFile, Stretch

HEADER = struct.Struct("<7i")
NEWER_MAGIC = 0x616B3432
# run.c fixes both.
NORM_EPS = 1e-5
ROPE_BASE = 10000.0

# The parts of a block in file order, each for all layers at once.
PARTS = (
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_down",
    "ffn_up",
)


def open_llama2c(path: Path, tokenizer: Path) -> SourceModel:
    """A version 0 checkpoint with its tokenizer.bin; ImageError unless the size is exact."""
    from qedge.toolkit.source.vocabulary.llama2c import from_llama2c

    file, words_file = SourceFile(path), SourceFile(tokenizer)
    config = _config(file)
    tensors = _tensors(config, file)
    words = from_llama2c(tokenizer, config.vocab_size)
    return SourceModel(path, config, words, None, tensors, (file, words_file))


def read_config(path: Path) -> ModelConfig:
    """The header alone; ImageError when its numbers are out of range or do not fit."""
    return _config(SourceFile(path))


def _config(file: SourceFile) -> ModelConfig:
    path = file.path
    if file.size < HEADER.size:
        raise ImageError(f"{path}: {file.size} bytes is too short for a llama2.c checkpoint")
    header = HEADER.unpack(file.read(0, HEADER.size))
    dim, ffn, layers, heads, kv_heads, vocab_size, context = header
    if dim == NEWER_MAGIC:
        raise ImageError(f"{path}: a newer llama2.c export; export it again with --version 0")
    if heads < 1 or dim % heads:
        raise ImageError(
            f"{path}: {heads} heads do not divide a dim of {dim}; no llama2.c checkpoint?"
        )
    config = ModelConfig(
        architecture="llama",
        name=path.stem,
        layers=layers,
        dim=dim,
        ffn=ffn,
        heads=heads,
        kv_heads=kv_heads,
        head_size=dim // heads,
        vocab_size=abs(vocab_size),
        context=context,
        norm_eps=NORM_EPS,
        rope_base=ROPE_BASE,
        rope_scaling=None,
        tied=vocab_size > 0,
    )
    check_config(config, path)
    return config


def _tensors(config: ModelConfig, file: SourceFile) -> dict[str, SourceTensor]:
    path = file.path
    places, size = _places(config)
    if file.size != size:
        raise ImageError(
            f"{path}: the header calls for {size} bytes, the file has {file.size}; "
            "it is cut short, damaged or no llama2.c checkpoint"
        )
    tensors = {}
    for name, (start, rows, columns) in places.items():
        stored = Stretch(file, start, rows, 4 * columns)
        tensors[name] = SourceTensor(name, rows, columns, "F32", stored, path)
    return check_tensors(config, tensors, path)


def _places(config: ModelConfig) -> tuple[dict[str, tuple[int, int, int]], int]:
    """(first byte, rows, columns) of each tensor, and the bytes of the whole file."""
    query_rows, kv_rows = config.dim, config.kv_heads * config.head_size
    shapes = {
        "attn_norm": (1, config.dim),
        "attn_q": (query_rows, config.dim),
        "attn_k": (kv_rows, config.dim),
        "attn_v": (kv_rows, config.dim),
        "attn_output": (config.dim, query_rows),
        "ffn_norm": (1, config.dim),
        "ffn_gate": (config.ffn, config.dim),
        "ffn_down": (config.dim, config.ffn),
        "ffn_up": (config.ffn, config.dim),
    }
    order = [("token_embd.weight", (config.vocab_size, config.dim))]
    for part in PARTS:
        for layer in range(config.layers):
            order.append((f"blk.{layer}.{part}.weight", shapes[part]))
    order.append(("output_norm.weight", (1, config.dim)))
    # Two rotary tables for every position, which nothing reads any more.
    order.append(("", (config.context, config.head_size)))
    if not config.tied:
        order.append(("output.weight", (config.vocab_size, config.dim)))
    places: dict[str, tuple[int, int, int]] = {}
    at = HEADER.size
    for name, (rows, columns) in order:
        if name:
            places[name] = (at, rows, columns)
        at += 4 * rows * columns
    return places, at
