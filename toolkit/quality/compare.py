"""The formats of one model side by side, each measured: size, speed, and what its predictions
lose against the file's own precision. Whatever was measured is kept, under a hash of what it
was measured of; so a comparison that was interrupted goes on, and one that was made is read."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import UsageError
from qedge.runtime.model import Model
from qedge.toolkit.board import Board, host_name
from qedge.toolkit.files import cache_folder, is_locked, locked, private_folder, writing
from qedge.toolkit.kept import keep, kept
from qedge.toolkit.quality import pieces, pool, speeds
from qedge.toolkit.quality.digest import model_digest
from qedge.toolkit.quality.formats import Facts, Images, in_memory
from qedge.toolkit.quality.measured import keep_table
from qedge.toolkit.quality.pieces import Piece, Ref
from qedge.toolkit.quality.recommend import Pick, recommend
from qedge.toolkit.quality.samples import CHUNKS, NAME, samples
from qedge.toolkit.quality.scoring import (
    CHUNK,
    KL,
    NLL,
    NLL_BASE,
    SAME_TOP,
    Doubles,
    chunks_of,
)
from qedge.toolkit.quality.speeds import PREDICTED, UNKNOWN, Speed
from qedge.toolkit.quality.statistics import Divergence, joined, summary
from qedge.toolkit.quant.recipe import FORMATS, QUANTS, own_precision, type_named, usual

Say = Callable[[str], None]
Progress = Callable[..., None]  # step, done, of
Chunks = npt.NDArray[np.int32]


def _quiet(*_: object) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Format:
    """One format: its image on the board, its speed, and its divergence from the base."""

    facts: Facts
    speed: Speed
    quality: Divergence
    is_base: bool

    @property
    def quant(self) -> str:
        return self.facts.quant


@dataclass(frozen=True, slots=True)
class Comparison:
    """All formats over the same tokens, and which to take."""

    model: str
    stored: str  # the type of most of the file's weights
    base: str  # the format that the others are compared with
    board: str
    text: str  # what was evaluated
    chunks: int
    context: int  # tokens of a chunk
    formats: tuple[Format, ...]
    picks: tuple[Pick, ...]
    notes: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Way:
    """How pieces are worked off: in this process, by processes, or by a cluster."""

    workers: int = 1
    dask: str | None = None

    def run(self, todo: Sequence[Piece]) -> Generator[pool.Done]:
        if self.dask is not None:
            from qedge.toolkit.quality.cluster import by_cluster

            return by_cluster(todo, self.dask)
        return pool.by_processes(todo, self.workers) if self.workers > 1 else pool.here(todo)


def compare(
    model: Path,
    board: Board,
    *,
    quant: Sequence[str] = (),
    text: bytes | None = None,
    text_name: str = "a text",
    chunks: int | None = None,
    context: int | None = None,
    tokenizer: Path | None = None,
    reached: tuple[str | None, str | None] | None = None,
    way: Way | None = None,
    say: Say = lambda line: None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Comparison:
    """Measures the formats of a model for a board.

    quant     formats by name; default: all that are not more exact than the file
    text      UTF-8; None: samples of the model itself, at temperature 1
    chunks    of 512 tokens (or the model's context): at most so many; default: all of a text,
              24 of the samples
    context   of the images whose size and speed are told; default: 2,048, or what fits
    reached   (port, identity): measure on that board, which has the last image afterwards
    way       who evaluates; the figures are the same, bit for bit

    UsageError for a wrong format, ImageError for a bad model or text, BudgetError when nothing
    can be evaluated here, WriteError when the cache cannot be written."""
    began = time.perf_counter()
    progress = progress or _quiet
    asked = _names(quant)
    folder = private_folder(cache_folder(cache) / "compare")
    lock = folder / f".{model_digest(model, tokenizer)[:32]}.lock"
    with writing(folder):
        if is_locked(lock):
            say(f"{model}: another process compares it; waiting")
        held = locked(lock)
    with held:
        images = Images(model, folder / "images", tokenizer, progress)
        about = images.about()
        base = own_precision(about.stored)
        wanted = dict.fromkeys([base, *(asked or usual(base))])
        names = sorted(wanted, key=_order)
        length = min(CHUNK, about.longest)
        refs = {name: images.here(name, length) for name in wanted}
        tokens = _tokens(images, refs[base], base, length, text, chunks, folder, progress)
        facts = {name: images.on(name, board, context) for name in names}
        rates = {
            name: _speed(images, facts[name], board, reached, folder, say, progress)
            for name in names
        }
        found = _evaluated(images, base, refs, tokens, folder, way or Way(), progress)
    rows = tuple(Format(facts[n], rates[n], found[n], n == base) for n in names)
    comparison = Comparison(
        model=about.name,
        stored=about.stored,
        base=base,
        board=board.name,
        text=NAME if text is None else text_name,
        chunks=len(tokens),
        context=length,
        formats=rows,
        picks=recommend(rows),
        notes=tuple(_notes(rows, board, reached is not None)),
        seconds=time.perf_counter() - began,
    )
    like = (base, comparison.text, len(tokens))
    told = {row.quant: asdict(row.quality) for row in rows}
    keep_table(folder, images.digest, model, like, told)
    return comparison


def _names(quant: Sequence[str]) -> list[str]:
    """Formats as they are called. UsageError."""
    return [type_named("--quant", one, QUANTS) for one in quant]


def _order(quant: str) -> int:
    """The most exact first."""
    return FORMATS.index(quant) if quant in FORMATS else len(FORMATS)


def _tokens(
    images: Images,
    base: Ref,
    quant: str,
    length: int,
    text: bytes | None,
    chunks: int | None,
    folder: Path,
    progress: Progress,
) -> Chunks:
    """The chunks that are evaluated: int32 (chunks, length)."""
    if chunks is not None and chunks < 1:
        raise UsageError(f"--chunks {chunks}: it must be at least 1")
    place = folder / "texts"
    if text is None:
        count = chunks or CHUNKS
        return samples(
            Path(base.path),
            base.id,
            length,
            count,
            place,
            partial(images.ready, quant, length),
            partial(progress, "write samples"),
        )
    key = hashlib.sha256(b"tokens 1 %d %s" % (length, base.id.encode()) + text).hexdigest()
    path = place / f"{key[:32]}.i32"
    data = kept(path)
    if data is None or not data or len(data) % (4 * length):
        images.ready(quant, length)
        with Model.open(base.path, context=length) as model:
            data = chunks_of(model, text, length).astype("<i4").tobytes()
        keep(path, data)
    return np.frombuffer(data, "<i4").reshape(-1, length).astype(np.int32)[:chunks]


def _speed(
    images: Images,
    facts: Facts,
    board: Board,
    reached: tuple[str | None, str | None] | None,
    folder: Path,
    say: Say,
    progress: Progress,
) -> Speed:
    """Measured where that can be, else predicted."""
    place, image_id = folder / "speeds", facts.image_id

    def timed(step: str, measure: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        image = images.again(facts, board)
        progress(step, 0, 1)
        found = measure(image)
        progress(step, 1, 1)
        return found

    if facts.lacks is None and reached is not None:
        port, identity = reached
        where = f"board {board.name} {port}"
        step = f"measure {facts.quant} on {board.name}"
        return speeds.remembered(
            place,
            image_id,
            where,
            lambda: timed(step, lambda path: speeds.there(board, port, identity, path, say)),
        )
    if facts.lacks is None and board.name == host_name():
        step = f"measure {facts.quant}"
        return speeds.remembered(
            place,
            image_id,
            speeds.this_machine(),
            lambda: timed(step, lambda path: speeds.here(path, facts.context)),
        )
    known = facts.predicted_tokens_per_second or facts.predicted_load_seconds
    return Speed(
        PREDICTED if known else UNKNOWN,
        decode=facts.predicted_tokens_per_second,
        load_seconds=facts.predicted_load_seconds,
    )


def _evaluated(
    images: Images,
    base: str,
    refs: dict[str, Ref],
    tokens: Chunks,
    folder: Path,
    way: Way,
    progress: Progress,
) -> dict[str, Divergence]:
    """The divergence of every format: what is kept of it, and what is not yet, in pieces that
    have the base's logits once for as many formats as may be open."""
    place, parts = folder / "positions", pieces.groups(tokens)
    compared = [name for name in refs if name != base] or [base]
    done: dict[tuple[str, int], Doubles] = {}
    todo: list[Piece] = []
    targets: list[list[tuple[str, int]]] = []
    for number, part in enumerate(parts):
        missing = []
        for name in compared:
            path = pieces.place(place, refs[base].id, refs[name].id, part)
            known = pieces.known(path, part)
            if known is None:
                missing.append(name)
            else:
                done[name, number] = known
        if missing:
            todo.append(Piece(refs[base], tuple(refs[n] for n in missing), _plain(part)))
            targets.append([(name, number) for name in missing])
    if todo:
        for name in {base, *(name for one in targets for name, _ in one)}:
            images.ready(name, tokens.shape[1])
        todo, targets = _split(todo, targets)
        progress("evaluate", 0, len(todo))
        with closing(way.run(todo)) as coming:  # its workers end with it, whatever happens
            for count, (which, found) in enumerate(coming, 1):
                for (name, number), data in zip(targets[which], found):
                    path = pieces.place(place, refs[base].id, refs[name].id, parts[number])
                    pieces.remember(path, data)
                    known = pieces.known(path, parts[number])
                    assert known is not None
                    done[name, number] = known
                progress("evaluate", count, len(todo))
    order = range(len(parts))
    columns = {name: joined([done[name, number] for number in order]) for name in compared}
    columns[base] = columns[compared[0]].copy()
    columns[base][:, NLL] = columns[base][:, NLL_BASE]
    columns[base][:, KL], columns[base][:, SAME_TOP] = 0, 1
    return {name: summary(columns[name]) for name in refs}


def _split(
    todo: list[Piece], targets: list[list[tuple[str, int]]]
) -> tuple[list[Piece], list[list[tuple[str, int]]]]:
    """Pieces whose images do not fit into memory at once, as several."""
    room = in_memory()
    new: list[Piece] = []
    of: list[list[tuple[str, int]]] = []
    for piece, target in zip(todo, targets):
        at = 0
        for others in pieces.sets_of(piece.others, piece.base, room):
            new.append(Piece(piece.base, tuple(others), piece.tokens))
            of.append(target[at : at + len(others)])
            at += len(others)
    return new, of


def _plain(part: Chunks) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, part.tolist()))


def _notes(rows: Sequence[Format], board: Board, reached: bool) -> Iterator[str]:
    """What whoever reads the table should know."""
    for row in rows:
        if row.facts.lacks is not None:
            yield f"{row.quant} {row.facts.lacks}"
        if row.speed.reasons:
            yield f"{row.quant}: its speed is in doubt: {'; '.join(row.speed.reasons)}"
    if any(row.speed.how == PREDICTED for row in rows):
        yield f"speeds of {board.name} are predicted (docs/prediction.md); -p measures them"
    elif all(row.speed.how == UNKNOWN for row in rows):
        yield f"no speed is known for {board.name}; -p measures it on a board"
    if not any(row.facts.lacks is None for row in rows):
        yield "no format fits: a shorter --context, or another board"
    if reached:
        fits = [row.quant for row in rows if row.facts.lacks is None]
        yield f"the board has the image of {fits[-1]} now" if fits else "nothing was flashed"
