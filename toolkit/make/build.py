"""Model file to image, in one call: the walk's steps put one after the other."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qedge.runtime.errors import ImageError, QedgeError, UsageError, WriteError
from qedge.runtime.image import open_image
from qedge.runtime.model import Model
from qedge.toolkit.board import Board
from qedge.toolkit.make.budget import MemoryPlan
from qedge.toolkit.make.calibrate import Calibration, calibrated
from qedge.toolkit.make.predict import of_image, predict
from qedge.toolkit.make.write import here, plain_image, write
from qedge.toolkit.quant.quantize import (
    SEARCH,
    is_searched,
)
from qedge.toolkit.quant.recipe import (
    KEEP,
    WHY,
    Recipe,
    default_quant,
    kept_type,
)
from qedge.toolkit.quant.recipe_file import read_recipe
from qedge.toolkit.source.locate import model_name
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

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
    there = "" if board.name == here() else f"-{board.name}"
    return Path(f"{model_name(model)}-{quant}{there}.qimg")


def _refuse_same(output: Path, files: Iterable[Path | None], what: str) -> None:
    """UsageError when an output is one of some files."""
    for file in filter(None, files):
        if os.path.exists(output) and os.path.exists(file) and os.path.samefile(output, file):
            raise UsageError(f"{output}: is {what}; name another output")


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


def _recipe(
    source: SourceModel,
    board: Board,
    quant: str | None,
    given: Path | Recipe | None,
    kv: str | None,
    embedding: str | None,
    at_once: bool,
) -> Recipe:
    if given is None:
        if quant is None:
            quant = default_quant(source, quick=at_once or board.device is not None)
        return Recipe.of(source, quant, kv, embedding)
    for option, word in (("--quant", quant), ("--embedding", embedding)):
        if word is not None:
            raise UsageError(f"{option} {word}: --recipe says every type; give one of them")
    return given if isinstance(given, Recipe) else read_recipe(given, source, kv)


def build(
    model: Path,
    board: Board,
    output: Path | None = None,
    *,
    quant: str | None = None,
    recipe: Path | Recipe | None = None,
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
    recipe     every type, or a file that says it (see read_recipe), instead of quant
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
    unasked = quant is None and recipe is None
    chosen = _recipe(source, board, quant, recipe, kv, embedding, at_once)
    if output is None:
        output = output_path(model, board, chosen.quant)
        check_output(output)
    _refuse_same(output, source.files, "a file of the model")  # of a folder, or another part
    replaces = tuple(_replaced(output, board))
    needs = rounding == SEARCH and any(
        kind != "q8_0" and is_searched(source.tensors[name], kind)
        for name, kind in chosen.types.items()
    )
    calibration: Calibration | None = None
    shown = "none"
    if needs and calibrate != "none":
        text = None if calibrate == "samples" else _text_of(calibrate)
        shown = "samples" if text is None else hashlib.sha256(text).hexdigest()
        calibration = calibrated(source.sha256(), partial(plain_image, source), text, tell)
    planned = write(
        source,
        chosen,
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
            quant=chosen.quant,
            embedding=chosen.embedding,
            plan=planned,
            seconds=time.perf_counter() - began,
            tokens_per_second=expected.tokens_per_second,
            load_seconds=expected.load_seconds,
            notes=(*_notes(source, chosen, planned, context, unasked), *replaces),
        )
