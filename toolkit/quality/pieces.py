"""A piece of an evaluation: a few chunks through the base and the formats beside it. What it
gives depends on the images and the tokens alone, never on who computes it, on how many threads,
or on what else is in the piece; so its parts are kept, each under a hash of what it is of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import UsageError
from qedge.runtime.model import Model
from qedge.toolkit.kept import keep, kept
from qedge.toolkit.quality.evaluate import check_same
from qedge.toolkit.quality.scoring import Doubles, Scorer, scored

CHUNKS_AT_ONCE = 4  # of a piece: what an interruption costs
_FORM = "positions 1"  # of what is kept: a new one makes the old ones unknown
_COLUMNS = 4


@dataclass(frozen=True, slots=True)
class Ref:
    """An image by path and id."""

    path: str
    id: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Chunks (of equal length) for a base and others."""

    base: Ref
    others: tuple[Ref, ...]
    tokens: tuple[tuple[int, ...], ...]

    def fields(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "base": [self.base.path, self.base.id],
            "others": [[one.path, one.id] for one in self.others],
            "tokens": [list(chunk) for chunk in self.tokens],
            "version": version("qedge"),
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Piece:
        """UsageError when it comes from another version, whose figures may be others."""
        if fields["version"] != version("qedge"):
            raise UsageError(
                f"a worker has qedge {version('qedge')}, whoever asks {fields['version']}; "
                "install one version everywhere"
            )
        others = tuple(Ref(*one) for one in fields["others"])
        return cls(Ref(*fields["base"]), others, tuple(map(tuple, fields["tokens"])))


def run(piece: Piece, threads: int | None = None) -> list[bytes]:
    """Of each other image, its positions: float64 (positions, 4), little endian."""
    chunks = np.array(piece.tokens, np.int32)
    context = chunks.shape[1]
    with ExitStack() as stack:
        models = [
            stack.enter_context(Model.open(ref.path, context=context, threads=threads))
            for ref in (piece.base, *piece.others)
        ]
        for model, ref in zip(models, (piece.base, *piece.others)):
            if model.image_id != ref.id:
                raise UsageError(f"{ref.path}: is another image by now; run this again")
            check_same(model, models[0])
        scorer = stack.enter_context(Scorer(models))
        parts = [scorer.chunk(chunk) for chunk in chunks]
    found = np.concatenate(parts, axis=1).astype("<f8")
    return [one.tobytes() for one in found]


def place(folder: Path, base: str, other: str, chunks: npt.NDArray[np.int32]) -> Path:
    """Where the positions of an image (by ids) over some chunks are kept."""
    digest = hashlib.sha256()
    for part in (_FORM, base, other, str(chunks.shape[1])):
        digest.update(part.encode() + b"\0")
    digest.update(chunks.astype("<i4").tobytes())
    name = digest.hexdigest()
    return folder / name[:2] / f"{name[2:34]}.f64"


def known(path: Path, chunks: npt.NDArray[np.int32]) -> Doubles | None:
    """What is kept there: (positions, 4); None when nothing whole is."""
    data = kept(path)
    if data is None or len(data) != 8 * _COLUMNS * len(chunks) * scored(chunks.shape[1]):
        return None
    return np.frombuffer(data, "<f8").reshape(-1, _COLUMNS).astype(np.float64)


def remember(path: Path, data: bytes) -> None:
    """Keeps what `run` gave for one image."""
    keep(path, data)


def groups(chunks: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int32]]:
    """The chunks of each piece."""
    return [chunks[at : at + CHUNKS_AT_ONCE] for at in range(0, len(chunks), CHUNKS_AT_ONCE)]


def sets_of(others: Sequence[Ref], base: Ref, room: int | None) -> list[list[Ref]]:
    """Others that may be open with the base at once: their files fit into `room` bytes together
    (None: not known), but one at a time always goes."""
    found: list[list[Ref]] = []
    left = 0
    for ref in others:
        size = os.path.getsize(ref.path)
        if not found or (room is not None and size > left):
            found.append([])
            left = (room or 0) - os.path.getsize(base.path)
        found[-1].append(ref)
        left -= size
    return found
