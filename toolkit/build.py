"""Model file to image, in one call: the walk's steps put one after the other."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

from qedge.runtime.errors import ImageError, UsageError
from qedge.runtime.image import KV_TYPES
from qedge.runtime.model import Model
from qedge.toolkit import rope
from qedge.toolkit.board import Board
from qedge.toolkit.budget import Plan, plan
from qedge.toolkit.chat.facts import facts_of
from qedge.toolkit.image import (
    KINDS,
    Golden,
    ImageWriter,
    TensorEntry,
    frame_bytes,
    new_file,
)
from qedge.toolkit.predict import of_entries, predict
from qedge.toolkit.quantize import TYPES, layout_for, pack, packed_bytes
from qedge.toolkit.source import open_source
from qedge.toolkit.source.model import SourceModel, SourceTensor
from qedge.toolkit.vocabulary_table import pack as pack_vocabulary

GOLDEN_PROMPT = "Once upon a time"
GOLDEN_TOKENS = 16
Progress = Callable[[str, int, int], None]  # step, done, of


@dataclass(frozen=True, slots=True)
class Built:
    """What a build gives. Sizes are bytes."""

    image: Path
    image_id: str
    bytes: int
    board: str
    quant: str
    embedding: str
    plan: Plan
    seconds: float
    tokens_per_second: float | None = None  # predicted, decode at depth 0; None: not known
    load_seconds: float | None = None  # predicted, from storage; None: not known


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the types of an image's tensors are."""

    quant: str
    embedding: str
    kv: str

    @classmethod
    def of(cls, quant: str, kv: str | None, embedding: str | None) -> Recipe:
        """The defaults: q4_0 keeps embedding and output in q8_0, as llama.cpp does; the KV
        cache is q8_0 for quantized images, and the weights' own type for f32 and f16 ones."""
        for name, value in (("--quant", quant), ("--embedding", embedding)):
            if value is not None and value not in TYPES:
                raise UsageError(f"{name} {value}: unknown type; known are {', '.join(TYPES)}")
        default = "q8_0" if quant in ("q4_0", "q8_0") else quant
        if kv not in (None, *KV_TYPES):
            raise UsageError(f"--kv {kv}: unknown type; known are {', '.join(KV_TYPES)}")
        return cls(quant, embedding or ("q8_0" if quant == "q4_0" else quant), kv or default)

    def type_of(self, name: str) -> str:
        if "norm" in name:
            return "f32"
        return self.embedding if name.startswith(("token_embd", "output")) else self.quant


def tensor_table(source: SourceModel, recipe: Recipe, board: Board) -> list[TensorEntry]:
    """The tensor table, in the one order that the engine takes (SPEC 3.5)."""
    names = ["token_embd.weight", "output_norm.weight"]
    if not source.config.tied:
        names.append("output.weight")
    order = list(KINDS)[3:]
    names += [f"blk.{n}.{part}.weight" for n in range(source.config.layers) for part in order]
    entries = []
    for name in names:
        tensor, kind = source.tensors[name], recipe.type_of(name)
        parts = name.split(".")
        layer, role = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        layout = layout_for(kind, board.layout)
        size = packed_bytes(kind, layout, tensor.rows, tensor.columns)
        entries.append(
            TensorEntry(
                name, KINDS[role], layer, kind, layout, tensor.rows, tensor.columns, size
            )
        )
    return entries


def sized(
    source: SourceModel, entries: list[TensorEntry], vocabulary: bytes, board: Board
) -> int:
    """At most the image's bytes without its rope table."""
    weight_bytes = sum(entry.bytes for entry in entries)
    texts = len(vocabulary) + len((source.chat_template or "").encode())
    texts += len(conversation(source) or b"")
    return weight_bytes + frame_bytes(board, weight_bytes, len(entries), texts)


def conversation(source: SourceModel) -> bytes | None:
    """The chat section; None without a template."""
    if source.chat_template is None:
        return None
    named, folder = source.special_tokens or {}, source.path.is_dir()
    return facts_of(source.vocabulary, named, source.chat_template, folder=folder).pack()


def _provenance(
    source: SourceModel, recipe: Recipe, board: Board, context: int, sha256: str
) -> bytes:
    found = {
        "tool": f"qedge {version('qedge')}",
        "model": source.config.name,
        "architecture": source.config.architecture,
        "source_sha256": sha256,
        "recipe": {
            "quant": recipe.quant,
            "embedding": recipe.embedding,
            "kv": recipe.kv,
            "context": context,
            "board": board.name,
        },
    }
    return json.dumps(found, sort_keys=True, ensure_ascii=False).encode()


def _golden(path: Path, name: Path, config_context: int) -> Golden:
    """Runs the image that was just written of the model `name`; records what it says."""
    with Model.open(path, allow_paging=True) as model:
        prompt = model.prompt_tokens(GOLDEN_PROMPT)[: max(1, config_context - 1)] or [0]
        count = min(GOLDEN_TOKENS, config_context - len(prompt) + 1)
        try:
            tokens, digest = model.greedy(prompt, count)
        except ImageError:
            raise ImageError(
                f"{name}: its numbers run over, a logit is not finite; take another --quant "
                "or another model"
            ) from None
    return Golden(tuple(prompt), tuple(tokens), bytes.fromhex(digest))


def build(
    model: Path,
    board: Board,
    output: Path,
    *,
    quant: str = "q8_0",
    context: int | str = "auto",
    kv: str | None = None,
    embedding: str | None = None,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
) -> Built:
    """Builds the image of a model for a board.

    ImageError for a bad model, BudgetError when it does not fit, WriteError when it cannot be
    written; the output is whole or untouched.
    """
    began = time.perf_counter()
    tell = progress or (lambda step, done, of: None)
    recipe = Recipe.of(quant, kv, embedding)
    for given in filter(None, (model, tokenizer)):
        if os.path.exists(output) and os.path.exists(given) and os.path.samefile(output, given):
            raise UsageError(f"{output}: is the model itself; name another output")
    source = open_source(model, tokenizer)
    entries = tensor_table(source, recipe, board)
    weight_bytes = sum(entry.bytes for entry in entries)
    vocabulary = pack_vocabulary(source.vocabulary)
    size = sized(source, entries, vocabulary, board)
    planned = plan(source.config, board, context, recipe.kv, size)
    provenance = partial(_provenance, source, recipe, board, planned.context)
    done = 0

    def packed(entry: TensorEntry) -> Iterable[bytes]:
        nonlocal done
        tensor: SourceTensor = source.tensors[entry.name]
        for piece in pack(tensor, entry.type, entry.layout):
            yield piece.data
            done += piece.nbytes
            tell("quantize", done, weight_bytes)

    table = (piece.data for piece in rope.tables(source.config, planned.context))
    with new_file(output) as file, ThreadPoolExecutor(1) as background:
        digest = background.submit(source.sha256)  # reads all of it, while it is quantized
        writer = ImageWriter(file, board)
        writer.write(
            source.config,
            planned,
            entries,
            vocabulary,
            source.chat_template,
            provenance("0" * 64),
            table,
            packed,
            conversation(source),
        )
        writer.set_provenance(provenance(digest.result()))
        tell("prove", 0, 1)
        writer.set_golden(_golden(Path(file.name), model, planned.context))
    with Model.open(output, allow_paging=True) as proved:
        proved.test()
        tell("prove", 1, 1)
        expected = predict(board, of_entries(entries), proved.image.bytes)
        return Built(
            image=output,
            image_id=proved.image_id,
            bytes=proved.image.bytes,
            board=board.name,
            quant=recipe.quant,
            embedding=recipe.embedding,
            plan=planned,
            seconds=time.perf_counter() - began,
            tokens_per_second=expected.tokens_per_second,
            load_seconds=expected.load_seconds,
        )
