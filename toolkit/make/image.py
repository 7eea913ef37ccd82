"""Writes images: the only writer of the format (runtime/engine/SPEC.md section 3).

The same input gives the same bytes on every host: no times, no paths.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from qedge.runtime._engine import KV_TYPES, SECTIONS, TYPES
from qedge.runtime.machine import cpus
from qedge.toolkit.board import Board
from qedge.toolkit.files import new_file as new_file
from qedge.toolkit.make.budget import MemoryPlan
from qedge.toolkit.source.model import ModelConfig

VERSION = 2
HEADER_BYTES, ENTRY_BYTES, TENSOR_BYTES = 128, 32, 40
CONFIG_BYTES, PLAN_BYTES, GOLDEN_BYTES = 64, 128, 4096
CONFIG, PLAN, VOCAB, TEMPLATE, ROPE = (
    SECTIONS[name] for name in ("config", "plan", "vocabulary", "chat template", "rope")
)
TENSORS, WEIGHTS, GOLDEN, PROVENANCE, CHAT = (
    SECTIONS[name] for name in ("tensors", "weights", "golden", "provenance", "chat")
)
_SECTION_ALIGNMENT = 64
_LEAVES_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A row of the tensor table; the bytes come when they are written."""

    name: str
    kind: int
    layer: int
    type: str
    layout: int  # rows interleaved
    rows: int
    columns: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Golden:
    """Prompt ids, the ids that greedy decoding gives, and the hash of the logits behind
    them."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logits_hash: bytes

    def pack(self) -> bytes:
        count = len(self.prompt) + len(self.tokens)
        head = struct.pack("<4I", 48 + 4 * count, len(self.prompt), len(self.tokens), 0)
        ids = struct.pack(f"<{count}I", *self.prompt, *self.tokens)
        return head + self.logits_hash + ids


def _config_bytes(config: ModelConfig) -> bytes:
    fields = struct.pack(
        "<9IfI",
        64,
        config.dim,
        config.layers,
        config.heads,
        config.kv_heads,
        config.head_size,
        config.ffn,
        config.vocab_size,
        config.context,
        config.norm_eps,
        int(config.tied),
    )
    return fields.ljust(CONFIG_BYTES, b"\0")


def _plan_bytes(plan: MemoryPlan, board: Board) -> bytes:
    fields = struct.pack(
        "<6IQ32s",
        128,
        plan.context,
        plan.batch,
        plan.threads,
        KV_TYPES[plan.kv],
        0,
        plan.arena_bytes,
        board.name.encode(),
    )
    return fields.ljust(PLAN_BYTES, b"\0")


def bytes_without_rope(board: Board, entries: list[TensorEntry], texts: Sequence[int]) -> int:
    """At most the bytes of an image without its RoPE table and the hashes of that one's leaves.
    texts: the bytes of vocabulary, chat template and what belongs to it, and provenance. Exact
    but for padding, since a slot of flash may be as large as the image."""
    parts = [HEADER_BYTES + ENTRY_BYTES * (len(texts) + 6)]  # and six sections without a text
    parts += [CONFIG_BYTES, PLAN_BYTES, 8 + TENSOR_BYTES * len(entries), GOLDEN_BYTES, *texts]
    parts += [entry.bytes for entry in entries]
    size = sum(_up(part, _SECTION_ALIGNMENT) for part in parts) + 2 * board.alignment_bytes
    return size + 32 * (-(-size // board.leaf_bytes) + 1)  # and the root


def _up(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


class ImageWriter:
    """Writes one image into an open file: `write` first, then `set_provenance` and
    `set_golden`, then it is whole."""

    def __init__(self, file: BinaryIO, board: Board) -> None:
        self._file = file
        self._board = board
        self._places: dict[int, tuple[int, int]] = {}  # (offset, bytes) of a section
        self._tree_at = 0

    def write(
        self,
        config: ModelConfig,
        plan: MemoryPlan,
        entries: list[TensorEntry],
        vocabulary: bytes,
        template: str | None,
        provenance: bytes,
        rope: Iterable[bytes],
        weights: Callable[[TensorEntry], Iterable[bytes]],
        chat: bytes | None = None,
    ) -> None:
        """Lays out and writes everything but the hash tree. The golden section is empty yet;
        the provenance may be any bytes of its final length."""
        small: list[tuple[int, bytes]] = [
            (CONFIG, _config_bytes(config)),
            (PLAN, _plan_bytes(plan, self._board)),
            (TENSORS, bytes(8 + TENSOR_BYTES * len(entries))),
            (GOLDEN, struct.pack("<4I", 48, 0, 0, 0).ljust(GOLDEN_BYTES, b"\0")),
            (PROVENANCE, provenance),
            (VOCAB, vocabulary),
        ]
        if template is not None:
            small.insert(5, (TEMPLATE, template.encode()))
        if chat is not None:
            small.insert(6, (CHAT, chat))
        count = len(small) + 2
        at = _up(HEADER_BYTES + ENTRY_BYTES * count, _SECTION_ALIGNMENT)
        table = []
        for kind, data in small:
            table.append((kind, at, len(data)))
            at = _up(at + len(data), _SECTION_ALIGNMENT)
        checked = at
        rope_at = _up(at, self._board.alignment_bytes)
        rope_bytes = plan.context * config.head_size * 4
        weights_at = _up(rope_at + rope_bytes, self._board.alignment_bytes)
        placed, at = [], weights_at
        for entry in entries:
            placed.append((entry, at))
            at = _up(at + entry.bytes, _SECTION_ALIGNMENT)
        table += [(ROPE, rope_at, rope_bytes), (WEIGHTS, weights_at, at - weights_at)]
        self._tree_at = at

        rows = [
            struct.pack(
                "<6I2Q",
                e.kind,
                e.layer,
                TYPES[e.type],
                e.layout,
                e.rows,
                e.columns,
                offset,
                e.bytes,
            )
            for e, offset in placed
        ]
        small[2] = (TENSORS, struct.pack("<2I", len(rows), TENSOR_BYTES) + b"".join(rows))
        self._places = {kind: (offset, size) for kind, offset, size in table}

        leaf = self._board.leaf_bytes
        leaves = -(-self._tree_at // leaf)
        header = struct.pack(
            "<8s2IQ2IQ2IQ2IQ",
            b"QEDGEIMG",
            VERSION,
            HEADER_BYTES,
            self._tree_at + 32 * leaves + 32,
            count,
            ENTRY_BYTES,
            HEADER_BYTES,
            self._board.alignment_bytes,
            leaf,
            self._tree_at,
            leaves,
            0,
            checked,
        )
        self._file.write(header.ljust(HEADER_BYTES, b"\0"))
        for kind, offset, size in table:
            self._file.write(struct.pack("<2I3Q", kind, 0, offset, size, 0))
        for (_, offset, _), (_, data) in zip(table, small):
            self._pad_to(offset)
            self._file.write(data)
        self._pad_to(rope_at)
        for piece in rope:
            self._file.write(piece)
        for entry, offset in placed:
            self._pad_to(offset)
            for piece in weights(entry):
                self._file.write(piece)
        self._pad_to(self._tree_at)

    def set_provenance(self, provenance: bytes) -> None:
        """Fills in the provenance, and the hash tree for the first time."""
        offset, size = self._places[PROVENANCE]
        if len(provenance) != size:
            raise ValueError("the provenance is not as long as it was said to be")
        self._file.seek(offset)
        self._file.write(provenance)
        self._write_tree(0)

    def set_golden(self, golden: Golden) -> None:
        """Fills in the golden section and renews the leaves that it lies in."""
        data = golden.pack()
        if len(data) > GOLDEN_BYTES:
            raise ValueError("the golden section is too long")
        offset, size = self._places[GOLDEN]
        self._file.seek(offset)
        self._file.write(data)
        self._write_tree(offset // self._board.leaf_bytes, size)

    def _pad_to(self, offset: int) -> None:
        self._file.write(bytes(offset - self._file.tell()))

    def _write_tree(self, first: int, span: int | None = None) -> None:
        """Hashes the leaves from number first on (over span bytes, or to the end); then the
        root."""
        leaf = self._board.leaf_bytes
        last = self._tree_at if span is None else min(self._tree_at, (first + 1) * leaf + span)
        self._file.flush()
        number = self._file.fileno()

        def digests_from(start: int) -> bytes:
            stop = min(last, start + leaf * _LEAVES_AT_ONCE)
            parts = [
                os.pread(number, min(leaf, self._tree_at - at), at)
                for at in range(start, stop, leaf)
            ]
            return b"".join(hashlib.sha256(part).digest() for part in parts)

        with ThreadPoolExecutor(cpus()) as pool:
            starts = range(first * leaf, last, leaf * _LEAVES_AT_ONCE)
            digests = b"".join(pool.map(digests_from, starts))
        self._file.seek(self._tree_at + 32 * first)
        self._file.write(digests)
        self._file.seek(self._tree_at)
        leaves = -(-self._tree_at // leaf)
        tree = self._file.read(32 * leaves)
        self._file.write(hashlib.sha256(tree).digest())
        self._file.flush()
