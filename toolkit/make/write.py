"""An image written: which tensors of which types, what goes beside them, the golden test."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import cast

from qedge.runtime._engine import ROLES
from qedge.runtime.errors import ImageError, NoBoardError, UsageError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, host_name, load
from qedge.toolkit.chat.facts import facts_of
from qedge.toolkit.files import new_file
from qedge.toolkit.make import rope
from qedge.toolkit.make.budget import MemoryPlan, plan
from qedge.toolkit.make.calibrate import LENGTH, Calibration
from qedge.toolkit.make.image import (
    Golden,
    ImageWriter,
    TensorEntry,
    bytes_without_rope,
)
from qedge.toolkit.make.vocabulary_table import pack as pack_vocabulary
from qedge.toolkit.quant.quantize import GGML, SEARCH, layout_for, pack, packed_bytes
from qedge.toolkit.quant.recipe import Recipe
from qedge.toolkit.source.model import SourceModel, SourceTensor

GOLDEN_PROMPT = "Once upon a time"
GOLDEN_TOKENS = 16
TABLE_TYPES = ("iq4_nl", "iq4_xs", "mxfp4")
Progress = Callable[[str, int, int], None]  # step, done, of


def tensor_table(source: SourceModel, recipe: Recipe, board: Board) -> list[TensorEntry]:
    """The tensor table, in the one order that the engine takes (SPEC 3.5). UsageError for types
    that the board refuses."""
    if (why := refused(recipe, board)) is not None:
        raise UsageError(why)
    names = ["token_embd.weight", "output_norm.weight"]
    if not source.config.tied:
        names.append("output.weight")
    order = list(ROLES)[3:]
    names += [f"blk.{n}.{part}.weight" for n in range(source.config.layers) for part in order]
    entries = []
    for name in names:
        tensor, kind = source.tensors[name], recipe.type_of(name)
        parts = name.split(".")
        layer, role = (int(parts[1]), parts[2]) if parts[0] == "blk" else (0, parts[0])
        layout = layout_for(kind, board.layout_rows)
        size = packed_bytes(kind, layout, tensor.rows, tensor.columns)
        entries.append(
            TensorEntry(
                name, ROLES[role], layer, kind, layout, tensor.rows, tensor.columns, size
            )
        )
    return entries


def refused(recipe: Recipe, board: Board) -> str | None:
    """Why a board takes no such types: their levels are looked up, and a processor of a board
    without an operating system has no instruction for that. None: it takes them."""
    looked_up = {name: kind for name, kind in recipe.types.items() if kind in TABLE_TYPES}
    if board.device is None or not looked_up:
        return None
    name, kind = next(iter(looked_up.items()))
    return (
        f"{name} is {kind}, whose weights are looked up in a table one by one: too slow on "
        f"{board.name}; take --quant q4_0, or q8_0, which loses next to nothing more"
    )


def sized(
    source: SourceModel,
    entries: list[TensorEntry],
    vocabulary: bytes,
    board: Board,
    recipe: Recipe | None = None,
) -> int:
    """At most the image's bytes without its rope table. recipe: one that has a name or facts of
    its own; None: a type's or a mixture's."""
    texts = [vocabulary, (source.chat_template or "").encode(), conversation(source) or b""]
    name, loss = "q5_K_M", None  # no type's name is longer
    if recipe is not None:
        name, loss = max(name, recipe.quant, key=len), recipe.loss
    longest = Recipe(name, "iq4_nl", "q8_0", {}, None if loss is None else 0.0001234)
    stated = _provenance(source, longest, "0" * 64, board, 1 << 24, "0" * 64)
    return bytes_without_rope(board, entries, [len(text) for text in (*texts, stated)])


def conversation(source: SourceModel) -> bytes | None:
    """The chat section; None without a template."""
    if source.chat_template is None:
        return None
    named, folder = source.special_tokens or {}, source.path.is_dir()
    return facts_of(source.vocabulary, named, source.chat_template, folder=folder).pack()


def _provenance(
    source: SourceModel,
    recipe: Recipe,
    importance: str,
    board: Board,
    context: int,
    sha256: str,
) -> bytes:
    found = {
        "tool": f"qedge {version('qedge')}",
        # of a file's name, whose bytes need not be text
        "model": source.config.name.encode("utf-8", "surrogateescape").decode(
            "utf-8", "replace"
        ),
        "architecture": source.config.architecture,
        "source_sha256": sha256,
        "recipe": {
            "quant": recipe.quant,
            "embedding": recipe.embedding,
            "kv": recipe.kv,
            "importance": importance,
            "context": context,
            "board": board.name,
            **({} if recipe.loss is None else {"estimated_kl": f"{recipe.loss:.4g}"}),
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


def here() -> str | None:
    """The board that this machine is; None: one that only builds for others."""
    try:
        return host_name()
    except NoBoardError:
        return None


def plain_image(source: SourceModel, output: Path) -> None:
    """A q8_0 image for this machine, to see how the model uses its weights."""
    recipe = Recipe.of(source, "q8_0", None, None)
    most = min(source.config.longest, LENGTH)
    board = replace(load(here() or "x86-64"), ram_bytes=0)
    write(source, recipe, board, output, most, lambda *_: None, None, rounding=GGML)


def write(
    source: SourceModel,
    recipe: Recipe,
    board: Board,
    output: Path,
    context: int | str,
    tell: Progress,
    name: Path | None,
    calibration: Calibration | None = None,
    shown: str = "none",
    rounding: str = SEARCH,
) -> MemoryPlan:
    """Writes an image; with a golden section where the model has a name."""
    entries = tensor_table(source, recipe, board)
    weight_bytes = sum(entry.bytes for entry in entries)
    vocabulary = pack_vocabulary(source.vocabulary)
    size = sized(source, entries, vocabulary, board, recipe)
    planned = plan(source.config, board, context, recipe.kv, size)
    provenance = partial(_provenance, source, recipe, shown, board, planned.context)
    done = 0

    def packed(entry: TensorEntry) -> Iterable[bytes]:
        nonlocal done
        tensor: SourceTensor = source.tensors[entry.name]
        counts, together = (calibration or Calibration()).of(entry.name)
        for piece in pack(tensor, entry.type, entry.layout, counts, rounding, together):
            yield cast(bytes, piece.data)
            done += piece.nbytes
            tell("quantize", done, weight_bytes)

    table = (cast(bytes, piece.data) for piece in rope.tables(source.config, planned.context))
    with new_file(output) as out, ThreadPoolExecutor(1) as background:
        digest = background.submit(source.sha256)  # reads all of it, while it is quantized
        writer = ImageWriter(out, board)
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
        source.check_unchanged()
        if name is not None:
            tell("prove", 0, 1)
            writer.set_golden(_golden(Path(out.name), name, planned.context))
    return planned
