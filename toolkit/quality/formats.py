"""Images of one model in many formats, made once and kept: which they are, and what of them is
known without running them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qedge.runtime.errors import BudgetError
from qedge.runtime.image import open_image
from qedge.runtime.machine import available_bytes
from qedge.runtime.text import printable
from qedge.toolkit.board import Board, load
from qedge.toolkit.files import locked, private_folder, sha256_of, writing
from qedge.toolkit.kept import keep, kept
from qedge.toolkit.make.budget import Room, longest_context, memory_plan
from qedge.toolkit.make.build import build
from qedge.toolkit.make.predict import of_entries, predict
from qedge.toolkit.make.vocabulary_table import pack as pack_vocabulary
from qedge.toolkit.make.write import sized, tensor_table
from qedge.toolkit.quality.digest import made_by, model_digest
from qedge.toolkit.quality.pieces import Ref
from qedge.toolkit.quant.recipe import Recipe
from qedge.toolkit.source import locate
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

USUAL_CONTEXT = 2048  # tokens, if the model was trained for them
Progress = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Facts:
    """A format's image on a board. Sizes are bytes; predictions None where none is known."""

    quant: str
    image_id: str
    bytes: int
    arena_bytes: int
    resident_bytes: int
    context: int
    bits_per_weight: float  # of all tensors, with their scales
    predicted_tokens_per_second: float | None
    predicted_load_seconds: float | None
    lacks: str | None  # None: it fits
    path: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """A model: its name, the type of most of its weights, and its longest context."""

    name: str
    stored: str
    longest: int


class Images:
    """The images of one model, in a folder of the cache."""

    def __init__(
        self,
        model: Path,
        folder: Path,
        tokenizer: Path | None = None,
        progress: Progress = print,
    ) -> None:
        self._model, self._tokenizer, self._progress = model, tokenizer, progress
        self.digest = model_digest(model, tokenizer)
        self._folder = folder
        self._opened: SourceModel | None = None

    @property
    def source(self) -> SourceModel:
        """The model's file, opened when it is needed."""
        if self._opened is None:
            self._opened = open_source(self._model, self._tokenizer)
        return self._opened

    def context_for(self, board: Board, quant: str) -> int:
        """2,048 tokens, or what the model was trained for, or the most that fits the board."""
        config = self.source.config
        recipe = Recipe.of(self.source, quant, None, None)
        vocabulary = pack_vocabulary(self.source.vocabulary)
        size = sized(self.source, tensor_table(self.source, recipe, board), vocabulary, board)
        most = longest_context(config, board, recipe.kv, size, config.longest)
        wanted = min(config.longest, USUAL_CONTEXT)
        return min(wanted, most) if most else wanted

    def about(self) -> About:
        """What is known of the model without opening it again."""
        said = self._folder / f"model-{self.digest[:32]}.json"
        if (data := kept(said)) is not None:
            return About(**json.loads(data))
        source = self.source
        found = About(
            printable(source.config.name), source.stored_type(), source.config.longest
        )
        keep(said, json.dumps(asdict(found)).encode())
        return found

    def here(self, quant: str, context: int) -> Ref:
        """An image for this machine that holds chunks of `context` tokens; it was built once,
        and may be gone: `ready` comes before it is opened. BudgetError when it does not fit,
        ImageError."""
        path = self._path(quant, load("host"), str(context))
        said = path.with_name(f"{path.name}.id")
        if (data := kept(said)) is not None:
            return Ref(str(path), data.decode())
        self.ready(quant, context)
        found = open_image(path).id.hex()
        keep(said, found.encode())
        return Ref(str(path), found)

    def ready(self, quant: str, context: int) -> None:
        """Builds the image of `here` unless it is there, with the hash that it had."""
        board = load("host")
        self._built(self._path(quant, board, str(context)), quant, board, context)

    def on(self, quant: str, board: Board, context: int | None) -> Facts:
        """A format on a board, by an image that is built for it; where none fits, by its
        plan, with what it lacks, and no image."""
        tokens = "auto" if context is None else str(context)
        path = self._path(quant, board, tokens)
        said = path.with_name(f"{path.name}.facts")
        if (data := kept(said)) is not None:
            return Facts(**json.loads(data))
        found = self._facts(quant, board, context)
        if found.lacks is None:
            try:
                self._built(path, quant, board, found.context)
                image = open_image(path)
                found = replace(
                    found,
                    image_id=image.id.hex(),
                    bytes=image.bytes,
                    arena_bytes=image.plan["arena_bytes"],
                    path=str(path),
                )
            except BudgetError as error:
                found = replace(found, lacks=str(error))
        keep(said, json.dumps(asdict(found)).encode())
        return found

    def again(self, facts: Facts, board: Board) -> Path:
        """The image of known facts, built again if it is not there any more."""
        path = Path(facts.path)
        self._built(path, facts.quant, board, facts.context)
        return path

    def _facts(self, quant: str, board: Board, context: int | None) -> Facts:
        config, recipe = self.source.config, Recipe.of(self.source, quant, None, None)
        entries = tensor_table(self.source, recipe, board)
        size = sized(self.source, entries, pack_vocabulary(self.source.vocabulary), board)
        tokens = context or self.context_for(board, quant)
        plan = memory_plan(config, board, tokens, recipe.kv, size)
        weights = sum(entry.rows * entry.columns for entry in entries)
        expected = predict(board, of_entries(entries), plan.image_bytes)
        return Facts(
            quant=quant,
            image_id="",
            bytes=plan.image_bytes,
            arena_bytes=plan.arena_bytes,
            resident_bytes=plan.resident_bytes,
            context=tokens,
            bits_per_weight=8 * sum(entry.bytes for entry in entries) / weights,
            predicted_tokens_per_second=expected.tokens_per_second,
            predicted_load_seconds=expected.load_seconds,
            lacks=Room.of(board).lacks(plan),
        )

    def _path(self, quant: str, board: Board, context: str) -> Path:
        digest = hashlib.sha256()
        for part in (made_by(), self.digest, quant, repr(board), context):
            digest.update(part.encode() + b"\0")
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", locate.model_name(self._model))[:60].lstrip(".")
        name = f"{stem or 'model'}-{quant}-{board.name}-{digest.hexdigest()[:16]}.qimg"
        return self._folder / name

    def _built(self, path: Path, quant: str, board: Board, context: int) -> None:
        private_folder(path.parent)
        if _is_right(path):
            return
        with writing(path.parent), locked(path.with_name(f".{path.name}.lock")):
            if _is_right(path):  # another process may just have made it
                return
            self._progress(f"build {quant}", 0, 1)
            fresh = path.with_name(f".{path.name}.new")
            try:
                build(
                    self._model,
                    board,
                    fresh,
                    quant=quant,
                    context=context,
                    tokenizer=self._tokenizer,
                    progress=lambda _, done, of: self._progress(f"build {quant}", done, of),
                )
                os.replace(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
            keep(_hash_of(path), sha256_of(path).encode())


def _is_right(path: Path) -> bool:
    """Whether an image is there as it was built."""
    try:
        return path.is_file() and kept(_hash_of(path)) == sha256_of(path).encode()
    except OSError:
        return False


def _hash_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.built")


def in_memory() -> int | None:
    """Bytes of images that may be open at once: half of what is available."""
    free = available_bytes()
    return None if free is None else free // 2
