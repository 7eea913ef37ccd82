"""How much each column of a model's matrices counts: the mean square of what it is multiplied
with, over samples of the model itself or over a text, and how columns go together: the second
moment of a matrix's inputs, of which the error of its output is the quadratic form. Its
diagonal is llama.cpp's importance matrix, all of it what GPTQ uses.

The engine runs a q8_0 image of the model, so that numbers are the same on every machine. They
are kept in the cache by the content of what they were made of. Nothing is quantized here.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from qedge.runtime._engine import ROLES, EngineError
from qedge.runtime.errors import ImageError
from qedge.runtime.machine import cpus
from qedge.runtime.model import Model
from qedge.toolkit.files import cache_folder, private_folder
from qedge.toolkit.kept import kept_or_made
from qedge.toolkit.quant.spread import STEP, Correlations, Products, numbers_of

if TYPE_CHECKING:
    from qedge.runtime._engine import Session

Floats = npt.NDArray[np.float32]
Progress = Callable[[str, int, int], None]

SEQUENCES = 16  # samples of the model
OF_LARGE = 8  # of one whose image is larger than this
LARGE_BYTES = 512 << 20
LENGTH = 512  # tokens of each, or chunks of a text: as llama.cpp's tool counts them
TEXT_TOKENS = 16_384  # of a text, at most
NUMBERS = 64 << 20  # correlations of a model, at most: pieces are as wide as that allows
_WIDTHS = (2048, 1024, 512, STEP)
_RAM_BYTES = 1_100_000_000  # that image and sums may take, or else
_LEAST_SUMS = 16 << 20  # so many numbers at once
_TOKENS_AT_ONCE = 64
_VERSION = 3  # of what is kept
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_SAME_INPUT = {"attn_k": "attn_q", "attn_v": "attn_q", "ffn_up": "ffn_gate"}


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was seen of a model's matrices, by a tensor's name in the source."""

    importance: Mapping[str, Floats] = field(default_factory=dict)
    correlations: Mapping[str, Correlations] = field(default_factory=dict)

    def of(self, name: str) -> tuple[Floats | None, Correlations | None]:
        """Mean squares of a tensor's columns, and how they go together; None for unknown."""
        return self.importance.get(name), self.correlations.get(_input_of(name))


def calibrated(
    digest: str,
    make_image: Callable[[Path], object],
    text: bytes | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """What a model does with its matrices.

    digest      of the model's files; make_image writes a q8_0 image of it to a path
    text        UTF-8 to run, or None: samples of the model at temperature 1, from random first
                tokens, always the same ones

    ImageError for a text that is not UTF-8 or of no token, WriteError where the cache takes
    nothing."""
    of_text = "" if text is None else hashlib.sha256(text).hexdigest()
    key = f"{_VERSION} {digest} {of_text}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache_folder() / "calibration" / f"{name}.npz"

    def make() -> bytes:
        private_folder(path.parent)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            image = Path(folder) / "model.qimg"
            make_image(image)
            with Model.open(image, allow_paging=True) as model:
                found = _measured(model, text, progress or (lambda step, done, of: None))
        arrays: dict[str, npt.NDArray[np.generic]] = dict(found.importance)
        for name, together in found.correlations.items():
            arrays[f"{together.widest}/{name}"] = together.parts
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    importance, correlations = {}, {}
    with np.load(io.BytesIO(kept_or_made(path, make)), allow_pickle=False) as stored:
        for name in stored.files:
            widest, slash, tensor = name.partition("/")
            if slash:
                correlations[tensor] = Correlations(int(widest), stored[name])
            else:
                importance[name] = stored[name]
    return Calibration(importance, correlations)


def _input_of(name: str) -> str:
    """The first of the tensors that are multiplied with the same."""
    for role, first in _SAME_INPUT.items():
        name = name.replace(f".{role}.", f".{first}.")
    return name


def _measured(model: Model, text: bytes | None, tell: Progress) -> Calibration:
    length = min(LENGTH, model.context)
    if text is None:
        tasks: Sequence[Sequence[int]] = [[token] for token in _first_tokens(model)]
    else:
        tokens = model.tokenize(text, bos=True)[:TEXT_TOKENS]
        tasks = [tokens[at : at + length] for at in range(0, len(tokens), length)]
        if not tasks:
            raise ImageError("the text to calibrate with has no token; give a longer one")
    names = _names(model)
    widest, passes = _passes(model, names)
    steps = len(tasks) + len(passes)
    sums = [np.zeros(columns) for _, columns in names.values()]
    ran: list[Sequence[int]] = []
    stop = threading.Event()
    run = partial(_run if text is not None else _sample, stop, length)
    at_once = min(cpus(), len(tasks))
    with ThreadPoolExecutor(at_once) as pool:
        sessions = [model.session(threads=1).engine for _ in range(at_once)]
        try:
            for start in range(0, len(tasks), at_once):
                tell("calibrate", start, steps)
                now = tasks[start : start + at_once]
                # added in the order of the tasks, however many run at once
                seen = list(pool.map(run, sessions, now, range(start, start + len(now))))
                for session, of_task in zip(sessions, seen):
                    for total, (index, _) in zip(sums, names.values()):
                        total += np.frombuffer(session.observed(index))
                    ran.append(of_task)
        finally:
            stop.set()  # after an interruption nobody waits for half a text
        rows = sum(map(len, ran))
        found = {name: (total / rows).astype(np.float32) for name, total in zip(names, sums)}
        del sessions
        correlations: dict[str, Correlations] = {}
        engine = model.session(threads=cpus()).engine
        for number, now_names in enumerate(passes, len(tasks)):
            tell("calibrate", number, steps)
            tensors = {name: names[name] for name in now_names}
            correlations |= _correlations(engine, tensors, widest, ran, pool)
        tell("calibrate", steps, steps)
    # a model whose numbers run over has none, and is refused when it is proved
    finite = {name: mean for name, mean in found.items() if np.isfinite(mean).all()}
    return Calibration(finite, correlations)


def _passes(model: Model, names: Mapping[str, tuple[int, int]]) -> tuple[int, list[list[str]]]:
    """Columns of a piece at most, and the tensors whose products are added up at once: as many
    as fit beside the image."""
    inputs = [name for name in names if name.startswith("blk.") and _input_of(name) == name]

    def size(widest: int) -> int:
        return sum(numbers_of(names[name][1], widest) for name in inputs)

    widest = next((wide for wide in _WIDTHS if size(wide) <= NUMBERS), _WIDTHS[-1])
    room = max(_LEAST_SUMS, (_RAM_BYTES - model.image.bytes) // 4)
    passes: list[list[str]] = []
    left = 0
    for name in inputs:
        need = numbers_of(names[name][1], widest)
        if not passes or need > left:
            passes.append([])
            left = room
        passes[-1].append(name)
        left -= need
    return widest, passes


def _correlations(
    session: Session,
    tensors: Mapping[str, tuple[int, int]],
    widest: int,
    texts: Sequence[Sequence[int]],
    pool: ThreadPoolExecutor,
) -> dict[str, Correlations]:
    """How the inputs of these tensors go together, over texts of tokens."""
    products = [Products(columns, widest) for _, columns in tensors.values()]
    session.keep_inputs([index for index, _ in tensors.values()], _TOKENS_AT_ONCE)

    def add(to: Products, inputs: bytes, columns: int) -> None:
        to.add(np.frombuffer(inputs, np.float32).reshape(-1, columns))

    for tokens in texts:
        session.rewind(0)
        for at in range(0, len(tokens), _TOKENS_AT_ONCE):
            try:
                session.eval(tokens[at : at + _TOKENS_AT_ONCE])
            except EngineError:  # as in _sample, where it ended there
                break
            jobs = [
                pool.submit(add, to, session.inputs_of(index), columns)
                for to, (index, columns) in zip(products, tensors.values())
            ]
            for job in jobs:
                job.result()
    return {name: product.correlations() for name, product in zip(tensors, products)}


def _names(model: Model) -> dict[str, tuple[int, int]]:
    """(number, columns) of each matrix of the image, by the source's name. The output's is
    under the embedding's name where they are one."""
    roles = {number: name for name, number in ROLES.items()}
    found = {}
    for index, (kind, layer, _, _, _, columns, _) in enumerate(model.image.tensors()):
        role = roles[kind]
        if role in _MATRICES:
            found[f"blk.{layer}.{role}.weight"] = (index, columns)
        elif role == "output" or (role == "token_embd" and model.config["tied"]):
            found[f"{role}.weight"] = (index, columns)
    return found


def _first_tokens(model: Model) -> list[int]:
    """Tokens to begin samples with, none of which ends a text."""
    rng, size = random.Random(2026), model.config["vocab_size"]
    count = OF_LARGE if model.image.bytes > LARGE_BYTES else SEQUENCES
    found: list[int] = []
    while len(found) < count:
        token = rng.randrange(size)
        if not model.image.is_stop(token) or size < 64:
            found.append(token)
    return found


def _run(
    stop: threading.Event, length: int, session: Session, tokens: Sequence[int], number: int
) -> Sequence[int]:
    session.rewind(0)
    session.observe()
    try:
        session.eval(tokens)
    except EngineError as error:
        raise ImageError(f"chunk {number} of the text: {error}") from None
    return tokens


def _sample(
    stop: threading.Event, length: int, session: Session, tokens: Sequence[int], number: int
) -> Sequence[int]:
    session.rewind(0)
    session.observe()
    session.set_sampler(1.0, 0, 1.0, 0.0, 1.0, number)
    seen = list(tokens)
    try:
        session.eval(tokens)
        while len(seen) < length and not stop.is_set():
            token = session.sample()
            session.eval([token])
            seen.append(token)
    except EngineError:  # a logit is not finite: what was seen counts
        pass
    return seen
