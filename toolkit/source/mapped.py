"""A file as a read-only array of bytes: the one place where a source touches the disk."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError

# The largest text file of a model is its tokenizer.json, some tens of MB.
JSON_LIMIT_BYTES = 256 << 20


def map_file(path: Path) -> npt.NDArray[np.uint8]:
    """The whole file, mapped, shape (bytes,); ImageError when it is no readable file."""
    try:
        if not path.is_file():  # also keeps a pipe from being waited for
            raise ImageError(f"{path}: there is no such file")
        if path.stat().st_size == 0:
            raise ImageError(f"{path}: the file is empty; fetch it again")
        return np.memmap(path, dtype=np.uint8, mode="r").view(np.ndarray)
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: cannot be read: {error}") from error


def release(data: npt.NDArray[np.uint8]) -> None:
    """Tells the system that these mapped bytes are done with, so that they no longer count
    as this process's memory. They stay readable."""
    base: object = data
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = np.frombuffer(base, np.uint8).ctypes.data
    start = (data.ctypes.data - first) // mmap.PAGESIZE * mmap.PAGESIZE
    base.madvise(mmap.MADV_DONTNEED, start, data.ctypes.data - first + data.nbytes - start)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ImageError when it is missing, too large or not an object."""
    data = map_file(path)
    if data.size > JSON_LIMIT_BYTES:
        raise ImageError(f"{path}: {data.size} bytes is no JSON file of a model")
    return parse_json(data.tobytes(), path, "the file")


def parse_json(text: bytes, path: Path, what: str) -> dict[str, Any]:
    """The JSON object in `text`; ImageError names the path and `what`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: {what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ImageError(f"{path}: {what} must be a JSON object, not {type(value).__name__}")
    return value
