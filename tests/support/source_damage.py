"""What the damage tests share: a tiny model, reading all of it, and random damage."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.tiny_models import TinyConfig, make_weights

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

TINY = TinyConfig(layers=1, dim=32, ffn=32, heads=4, kv_heads=2, vocab_size=288, context=8)
WEIGHTS = make_weights(1, TINY)


def open_and_read_everything(path: Path, tokenizer: Path | None = None) -> None:
    model = open_source(path, tokenizer)
    for tensor in model.tensors.values():
        for start, stop in tensor.spans():
            tensor.read(start, stop)
            tensor.raw(start, stop)


def same_weights(model: SourceModel, weights: dict[str, np.ndarray] = WEIGHTS) -> bool:
    """Whether the model that was opened has these weights, and every one of them."""
    return set(model.tensors) == set(weights) and all(
        np.array_equal(tensor.read(0, tensor.rows), weights[name].reshape(tensor.rows, -1))
        for name, tensor in model.tensors.items()
    )


def refused(path: Path, message: str, tokenizer: Path | None = None) -> None:
    with pytest.raises(ImageError, match=re.escape(message)):
        open_and_read_everything(path, tokenizer)


def survives_mutations(
    path: Path, start: int, stop: int, opened: Callable[[Path], object], count: int
) -> int:
    """Number of refusals; any other exception than ImageError fails the test by itself."""
    whole = path.read_bytes()
    damaged = path.with_name("damaged" + path.suffix)
    source = random.Random(42)
    refusals = 0
    for _ in range(count):
        data = bytearray(whole)
        for _ in range(source.choice((1, 1, 2, 8))):
            at = source.randrange(start, stop)
            data[at] = source.choice(
                (0, 1, 0x7F, 0x80, 0xFF, data[at] ^ (1 << source.randrange(8)))
            )
        damaged.write_bytes(data)
        try:
            opened(damaged)
        except ImageError as error:
            assert str(damaged) in str(error) or str(damaged.parent) in str(error)
            refusals += 1
    return refusals
