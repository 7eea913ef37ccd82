"""How much each column of a model's matrices counts: the mean square of what it is multiplied
with, over samples of the model itself or over a text. That is the diagonal of the second-order
error of the layer's output, and llama.cpp's importance matrix.

The engine runs a q8_0 image of the model and adds up the squares, so that they are the same on
every machine. They are kept in the cache by the content of what they were made of. Nothing is
quantized here.
"""

from __future__ import annotations

import hashlib
import io
import random
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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

if TYPE_CHECKING:
    from qedge.runtime._engine import Session

Importance = Mapping[str, npt.NDArray[np.float32]]  # by a tensor's name in the source
Progress = Callable[[str, int, int], None]

SEQUENCES = 8  # samples of the model
LENGTH = 512  # tokens of each, or chunks of a text: as llama.cpp's tool counts them
TEXT_TOKENS = 16_384  # of a text, at most
_VERSION = 1  # of what is kept
_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def importance_of(
    digest: str,
    make_image: Callable[[Path], object],
    text: bytes | None = None,
    progress: Progress | None = None,
) -> Importance:
    """The importance of every matrix of a model.

    digest      of the model's files; make_image writes a q8_0 image of it to a path
    text        UTF-8 to run, or None: samples of the model at temperature 1, from random first
                tokens, always the same ones

    ImageError for a text that is not UTF-8 or of no token, WriteError where the cache takes
    nothing."""
    of_text = "" if text is None else hashlib.sha256(text).hexdigest()
    key = f"{_VERSION} {SEQUENCES} {LENGTH} {TEXT_TOKENS} {digest} {of_text}"
    name = hashlib.sha256(key.encode()).hexdigest()[:32]
    path = cache_folder() / "calibration" / f"{name}.npz"

    def make() -> bytes:
        private_folder(path.parent)
        with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
            image = Path(folder) / "model.qimg"
            make_image(image)
            with Model.open(image, allow_paging=True) as model:
                found = _measured(model, text, progress or (lambda step, done, of: None))
        buffer = io.BytesIO()
        np.savez(buffer, **found)  # type: ignore[arg-type]
        return buffer.getvalue()

    with np.load(io.BytesIO(kept_or_made(path, make)), allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def _measured(
    model: Model, text: bytes | None, tell: Progress
) -> dict[str, npt.NDArray[np.float32]]:
    length = min(LENGTH, model.context)
    if text is None:
        tasks: Sequence[Sequence[int]] = [[token] for token in _first_tokens(model)]
    else:
        tokens = model.tokenize(text, bos=True)[:TEXT_TOKENS]
        tasks = [tokens[at : at + length] for at in range(0, len(tokens), length)]
        if not tasks:
            raise ImageError("the text to calibrate with has no token; give a longer one")
    names = _names(model)
    sums = [np.zeros(columns) for _, columns in names.values()]
    rows, stop = 0, threading.Event()
    run = partial(_run if text is not None else _sample, stop, length)
    at_once = min(cpus(), len(tasks))
    with ThreadPoolExecutor(at_once) as pool:
        sessions = [model.session(threads=1).engine for _ in range(at_once)]
        try:
            for start in range(0, len(tasks), at_once):
                tell("calibrate", start, len(tasks))
                now = tasks[start : start + at_once]
                # added in the order of the tasks, however many run at once
                counts = list(pool.map(run, sessions, now, range(start, start + len(now))))
                for session, count in zip(sessions, counts):
                    for total, (index, _) in zip(sums, names.values()):
                        total += np.frombuffer(session.observed(index))
                    rows += count
            tell("calibrate", len(tasks), len(tasks))
        finally:
            stop.set()  # after an interruption nobody waits for half a text
    found = {name: (total / rows).astype(np.float32) for name, total in zip(names, sums)}
    # a model whose numbers run over has none, and is refused when it is proved
    return {name: mean for name, mean in found.items() if np.isfinite(mean).all()}


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
    found: list[int] = []
    while len(found) < SEQUENCES:
        token = rng.randrange(size)
        if not model.image.is_stop(token) or size < 64:
            found.append(token)
    return found


def _run(
    stop: threading.Event, length: int, session: Session, tokens: Sequence[int], number: int
) -> int:
    session.rewind(0)
    session.observe()
    try:
        session.eval(tokens)
    except EngineError as error:
        raise ImageError(f"chunk {number} of the text: {error}") from None
    return len(tokens)


def _sample(
    stop: threading.Event, length: int, session: Session, tokens: Sequence[int], number: int
) -> int:
    session.rewind(0)
    session.observe()
    session.set_sampler(1.0, 0, 1.0, 0.0, 1.0, number)
    count = len(tokens)
    try:
        session.eval(tokens)
        while count < length and not stop.is_set():
            session.eval([session.sample()])
            count += 1
    except EngineError:  # a logit is not finite: what was seen counts
        pass
    return count
