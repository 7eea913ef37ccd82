"""Model file to image, in one call: the walk's steps put one after the other."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import cast

from qedge.runtime._engine import ROLES
from qedge.runtime.errors import ImageError, NoBoardError, QedgeError, UsageError, WriteError
from qedge.runtime.image import open_image
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, host_name, load
from qedge.toolkit.chat.facts import facts_of
from qedge.toolkit.files import new_file
from qedge.toolkit.make import rope
from qedge.toolkit.make.budget import MemoryPlan, plan
from qedge.toolkit.make.calibrate import LENGTH, Calibration, calibrated
from qedge.toolkit.make.image import (
    Golden,
    ImageWriter,
    TensorEntry,
    bytes_without_rope,
)
from qedge.toolkit.make.predict import of_image, predict
from qedge.toolkit.make.vocabulary_table import pack as pack_vocabulary
from qedge.toolkit.quant.quantize import (
    GGML,
    SEARCH,
    is_searched,
    layout_for,
    pack,
    packed_bytes,
)
from qedge.toolkit.quant.recipe import (
    KEEP,
    WHY,
    Recipe,
    default_quant,
    kept_type,
)
from qedge.toolkit.source.locate import model_name
from qedge.toolkit.source.model import SourceModel, SourceTensor
from qedge.toolkit.source.opening import open_source

GOLDEN_PROMPT = "Once upon a time"
GOLDEN_TOKENS = 16
TABLE_TYPES = ("iq4_nl", "iq4_xs", "mxfp4")
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
    plan: MemoryPlan
    seconds: float
    tokens_per_second: float | None = None  # predicted, decode at depth 0; None: not known
    load_seconds: float | None = None  # predicted, from storage; None: not known
    notes: tuple[str, ...] = ()  # what whoever builds should know


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
    source: SourceModel, entries: list[TensorEntry], vocabulary: bytes, board: Board
) -> int:
    """At most the image's bytes without its rope table."""
    texts = [vocabulary, (source.chat_template or "").encode(), conversation(source) or b""]
    recipe = Recipe("q5_K_M", "iq4_nl", "q8_0", {})  # no names are longer
    longest = _provenance(source, recipe, "0" * 64, board, 1 << 24, "0" * 64)
    return bytes_without_rope(board, entries, [len(text) for text in (*texts, longest)])


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


def check_output(output: Path) -> None:
    """WriteError when a file cannot be made there, before anything is computed for it."""
    folder = output.parent
    if output.is_dir():
        raise WriteError(f"{output}: is a folder; name a file in it")
    if not os.path.lexists(folder):
        raise WriteError(f"{output}: there is no folder {folder}; make it first")
    if not folder.is_dir():
        raise WriteError(f"{output}: {folder} is not a folder; name another output")


def output_path(model: Path, board: Board, quant: str) -> Path:
    """Where an image goes when no file is named: MODEL-QUANT.qimg in the working folder, with
    the board's name when that is not this machine, so that images of two formats or for two
    boards do not take each other's place."""
    there = "" if board.name == _here() else f"-{board.name}"
    return Path(f"{model_name(model)}-{quant}{there}.qimg")


def _refuse_same(output: Path, files: Iterable[Path | None], what: str) -> None:
    """UsageError when an output is one of some files."""
    for file in filter(None, files):
        if os.path.exists(output) and os.path.exists(file) and os.path.samefile(output, file):
            raise UsageError(f"{output}: is {what}; name another output")


def _here() -> str | None:
    try:
        return host_name()
    except NoBoardError:  # a machine that only builds for others
        return None


def _replaced(output: Path, board: Board) -> Iterable[str]:
    """That an output which is there already is no image for this board, if so."""
    if not output.is_file():
        return
    try:
        found = f"an image for {open_image(output).plan['board']}"
    except QedgeError:
        found = "no image that can be opened"
    if found != f"an image for {board.name}":
        yield f"{output} was {found}, and is replaced"


def _notes(
    source: SourceModel, recipe: Recipe, planned: MemoryPlan, context: int | str, unasked: bool
) -> Iterable[str]:
    if unasked:
        yield f"--quant {recipe.quant}: {WHY[recipe.quant]}"
    stored = source.stored_type()
    bits = re.match(r"(?:[IT]?Q|MXFP|NVFP)([1-7])", stored)
    if recipe.quant == KEEP:
        lost = sorted(
            {
                tensor.source_type
                for name, tensor in source.tensors.items()
                if name in recipe.types and kept_type(tensor.source_type) is None
            }
        )
        if lost:
            yield f"{', '.join(lost)} cannot be kept as it is: these weights are q8_0 here"
    elif bits is not None and stored.lower() != recipe.quant:
        yield (
            f"most of its weights are {stored} already, {bits[1]} bits each: no image of this "
            "file is more exact than that, and --quant keep takes them over without any loss"
        )
    bound = source.config.bound
    if context == "auto" and bound is not None and planned.context == bound.positions:
        yield f"the context is {planned.context:,} tokens: {bound.why} that many"


def _text_of(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give a text to calibrate with") from error


def _plain_image(source: SourceModel, output: Path) -> None:
    """A q8_0 image for this machine, to see how the model uses its weights."""
    recipe = Recipe.of(source, "q8_0", None, None)
    most = min(source.config.longest, LENGTH)
    board = replace(load(_here() or "x86-64"), ram_bytes=0)
    _write(source, recipe, board, output, most, lambda *_: None, None, rounding=GGML)


def _write(
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
    size = sized(source, entries, vocabulary, board)
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


def build(
    model: Path,
    board: Board,
    output: Path | None = None,
    *,
    quant: str | None = None,
    context: int | str = "auto",
    kv: str | None = None,
    embedding: str | None = None,
    tokenizer: Path | None = None,
    calibrate: str | Path = "samples",
    rounding: str = SEARCH,
    at_once: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Builds the image of a model for a board.

    model      see source.open_source; quant, kv, embedding: see Recipe.of
    output     the image's file; None: see output_path
    calibrate  what decides how much a weight's error counts: "samples" of the model itself, a
               text's path, or "none"
    rounding   see pack
    at_once    without quant: no type that takes calibrating

    ImageError for a bad model or one that changes meanwhile, BudgetError when it does not fit,
    WriteError when it cannot be written; the output is whole or untouched.
    """
    began = time.perf_counter()
    tell = progress or (lambda step, done, of: None)
    if output is not None:
        _refuse_same(output, (model, tokenizer), "the model itself")
        check_output(output)
    source = open_source(model, tokenizer)
    unasked = quant is None
    if quant is None:
        quant = default_quant(source, quick=at_once or board.device is not None)
    recipe = Recipe.of(source, quant, kv, embedding)
    if output is None:
        output = output_path(model, board, recipe.quant)
        check_output(output)
    _refuse_same(output, source.files, "a file of the model")  # of a folder, or another part
    replaces = tuple(_replaced(output, board))
    needs = rounding == SEARCH and any(
        kind != "q8_0" and is_searched(source.tensors[name], kind)
        for name, kind in recipe.types.items()
    )
    calibration: Calibration | None = None
    shown = "none"
    if needs and calibrate != "none":
        text = None if calibrate == "samples" else _text_of(calibrate)
        shown = "samples" if text is None else hashlib.sha256(text).hexdigest()
        calibration = calibrated(source.sha256(), partial(_plain_image, source), text, tell)
    planned = _write(
        source,
        recipe,
        board,
        output,
        context,
        tell,
        model,
        calibration=calibration,
        shown=shown,
        rounding=rounding,
    )
    with Model.open(output, allow_paging=True) as proved:
        proved.test()
        tell("prove", 1, 1)
        expected = predict(board, of_image(proved.image), proved.image.bytes)
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
            notes=(*_notes(source, recipe, planned, context, unasked), *replaces),
        )
