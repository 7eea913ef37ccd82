"""A model's file held open: the one place where a source touches the disk.

Read by place and never mapped: a file that shrinks under a mapping ends the process without a
word, one that is read says so.  What is read, hashed and checked at the end is one file,
whatever happens to its name.  Nothing here knows a format, but for the JSON of the small files.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.locate import FIRST_BYTES, refuse_placeholder, unreadable

Bytes = npt.NDArray[np.uint8]

# The largest text file of a model is its tokenizer.json, some tens of MB.
JSON_LIMIT_BYTES = 256 << 20
CHUNK_BYTES = 1 << 20


class SourceFile:
    """A regular file, open for reading as long as this lives.  `size` is that at opening.

    ImageError when it cannot be read, is empty (unless that is expected), or is a placeholder
    (a Git LFS pointer)."""

    def __init__(self, path: Path, *, empty: bool = False) -> None:
        self.path = path
        try:
            # a pipe is not waited for, and is refused by what it is
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise ImageError(f"{path}: there is no such file") from error
        except (OSError, ValueError) as error:
            found = error if isinstance(error, OSError) else OSError(str(error))
            raise unreadable(path, found) from error
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        told = os.fstat(descriptor)
        if not stat.S_ISREG(told.st_mode):
            raise ImageError(f"{path}: is not a regular file; give the model's file")
        self.size = told.st_size
        self._written = told.st_mtime_ns
        self._place = (told.st_dev, told.st_ino)
        if self.size == 0 and not empty:
            raise ImageError(f"{path}: the file is empty; fetch it again")
        refuse_placeholder(path, self.read(0, min(self.size, FIRST_BYTES)))

    def read(self, at: int, count: int) -> bytes:
        """`count` bytes from byte `at` on, which lie within `size`; ImageError when they are
        no longer there."""
        pieces: list[bytes] = []
        left = count
        while left:
            try:
                piece = os.pread(self._descriptor, left, at + count - left)
            except OSError as error:
                raise unreadable(self.path, error) from error
            if not piece:
                self._refuse_change("became shorter")
            pieces.append(piece)
            left -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def check(self) -> None:
        """ImageError unless the file is what it was when it was opened, and still the one that
        its path names (or no longer named at all)."""
        told = os.fstat(self._descriptor)
        if (told.st_size, told.st_mtime_ns) != (self.size, self._written):
            self._refuse_change("was written to")
        try:
            named = os.stat(self.path)
        except OSError:
            return
        if (named.st_dev, named.st_ino) != self._place:
            self._refuse_change("was replaced")

    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        digest = hashlib.sha256()
        for at in range(0, self.size, CHUNK_BYTES):
            digest.update(self.read(at, min(CHUNK_BYTES, self.size - at)))
        return digest.digest()

    def _refuse_change(self, what: str) -> None:
        raise ImageError(
            f"{self.path}: {what} while it was read; wait until it is complete, then run this "
            "again"
        )


class Stretch:
    """Rows of one length in a file, as an array's: (rows, row_bytes) from byte `at` on."""

    __slots__ = ("at", "file", "row_bytes", "shape")

    def __init__(self, file: SourceFile, at: int, rows: int, row_bytes: int) -> None:
        self.file = file
        self.at = at
        self.row_bytes = row_bytes
        self.shape = (rows, row_bytes)

    def __getitem__(self, rows: slice) -> Bytes:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(stop - start, 0) * self.row_bytes
        data = self.file.read(self.at + start * self.row_bytes, count) if count else b""
        return np.frombuffer(data, np.uint8).reshape(-1, self.row_bytes)


def read_file(path: Path) -> bytes:
    """All of a small file; ImageError when it is missing or too large."""
    file = SourceFile(path)
    if file.size > JSON_LIMIT_BYTES:
        raise ImageError(f"{path}: {file.size} bytes is not a text file of a model")
    return file.read(0, file.size)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ImageError when it is missing, too large or not an object."""
    return parse_json(read_file(path), path, "the file")


def parse_json(text: bytes, path: Path, what: str) -> dict[str, Any]:
    """The JSON object in `text`; ImageError names the path and `what`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: {what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ImageError(f"{path}: {what} must be a JSON object, not {type(value).__name__}")
    return value
