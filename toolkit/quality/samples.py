"""The text that is taken when none is given: what the model itself writes at temperature 1.
It needs no licence, is in the model's own language, and cannot have been chosen in favour of a
format; being what the model expects, it is easier for it than a text of others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError
from qedge.runtime.model import Model
from qedge.toolkit.kept import keep, kept

CHUNKS = 24
NAME = "the model's own samples"
_FORM = "sample 1"


def samples(
    image: Path,
    image_id: str,
    context: int,
    count: int,
    folder: Path,
    ready: Callable[[], None] = lambda: None,
    progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.int32]:
    """int32 (count, context): chunk n is what the image writes at temperature 1 with seed n,
    behind a first token that n decides. Each is kept in `folder`; `ready` is called before the
    image is opened for one that is not."""
    found: list[npt.NDArray[np.int32]] = []
    model: Model | None = None
    try:
        for number in range(count):
            key = hashlib.sha256(f"{_FORM} {image_id} {context} {number}".encode()).hexdigest()
            path = folder / f"{key[:32]}.i32"
            data = kept(path)
            if data is None or len(data) != 4 * context:
                if model is None:
                    ready()
                    model = Model.open(image, context=context)
                data = _sample(model, context, number).astype("<i4").tobytes()
                keep(path, data)
            found.append(np.frombuffer(data, "<i4").astype(np.int32))
            if progress:
                progress(number + 1, count)
    finally:
        if model is not None:
            model.close()
    return np.stack(found)


def _sample(model: Model, context: int, seed: int) -> npt.NDArray[np.int32]:
    vocab, size = model.image.vocab, model.config["vocab_size"]
    first = hashlib.sha256(b"first token %d" % seed).digest()
    ids = [int.from_bytes(first[:8], "little") % size]
    if vocab["add_bos"] and vocab["bos"] is not None:
        ids.insert(0, vocab["bos"])
    model.reset()
    model.engine.set_sampler(1.0, 0, 1.0, 0.0, 1.0, seed)
    model.evaluate(ids)
    while len(ids) < context:
        token = model.engine.sample()
        if not 0 <= token < size:
            raise ImageError(f"{model.path}: cannot be sampled; give a --text")
        ids.append(token)
        model.evaluate([token])
    return np.array(ids[:context], np.int32)
