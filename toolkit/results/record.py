"""Results as JSON lines: a file that only grows, where a line is whole or not there."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError, WriteError
from qedge.toolkit.results.trust import Verdict


@dataclass(frozen=True, slots=True)
class Records:
    """What files of results hold: `lines` in order, each with `source` (file:line), and what
    was skipped, as `file:line: why`."""

    lines: list[dict[str, Any]]
    skipped: list[str]


def record(
    results: Mapping[str, Any], verdict: Verdict, *, board: str, target: str
) -> dict[str, Any]:
    """A line of results: when (UTC), on which board, from what, the results, the verdict."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    head = {"when": now, "board": board, "target": target}
    plain = {name: _plain(value) for name, value in results.items()}
    return {**head, **plain, **head, **verdict.fields()}  # ours count, and stand first


def _plain(value: Any) -> Any:
    """What JSON can hold of a value: None for numbers without one, hex for bytes."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.hex() if isinstance(value, bytes) else value


def check_appendable(path: str | os.PathLike[str]) -> None:
    """WriteError unless a line could be added to the file now: what is measured for an hour
    must not be lost then. A file that is not there yet is not made."""
    try:
        there = os.path.lexists(path)
        if there and not os.path.isfile(path):  # a pipe would be waited for
            raise WriteError(f"{path}: is not a regular file; name another one to append to")
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644))
        if not there:
            os.unlink(path)
    except OSError as error:
        raise _cannot_add(path, error) from error


def _cannot_add(path: str | os.PathLike[str], error: OSError) -> WriteError:
    folder = Path(path).absolute().parent
    reason = error.strerror or str(error)
    if error.errno == errno.ENOENT and not folder.is_dir():
        reason = f"there is no folder {folder}, make it first"
    return WriteError(f"{path}: {reason}; nothing was added")


def append(path: str | os.PathLike[str], fields: Mapping[str, Any]) -> None:
    """Adds a line to a file, which is made when it is not there; it is on the disk when this
    returns. A last line that has no end is ended first, so that it spoils nothing but itself.
    WriteError, and then the file is as it was."""
    line = json.dumps(fields, default=str, allow_nan=False).encode() + b"\n"
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # two at once take turns
            _add(descriptor, line)
        finally:
            os.close(descriptor)
        _sync_folder(Path(path).absolute().parent)
    except OSError as error:
        raise _cannot_add(path, error) from error


def _add(descriptor: int, line: bytes) -> None:
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        line = b"\n" + line
    try:
        written = 0
        while written < len(line):
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except BaseException:  # an interrupt, too, must leave no half of a line
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(paths: Sequence[str | os.PathLike[str]]) -> Records:
    """All lines that are whole. ImageError when a file cannot be read or no line is left."""
    lines: list[dict[str, Any]] = []
    skipped: list[str] = []
    for path in paths:
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise ImageError(f"{path}: {error.strerror}; give files of results") from None
        for number, line in enumerate(data.split(b"\n"), 1):
            if not line.strip():
                continue
            source = f"{os.fspath(path)}:{number}"
            found = _parsed(line)
            if isinstance(found, str):
                skipped.append(f"{source}: {found}")
            else:
                lines.append({**found, "source": source})
    if not lines:
        why = f" ({'; '.join(skipped[:3])})" if skipped else ""
        named = ", ".join(os.fspath(path) for path in paths)
        raise ImageError(
            f"{named}: no line of results{why}; make some by `qedge bench --append`"
        )
    return Records(lines, skipped)


def _parsed(line: bytes) -> dict[str, Any] | str:
    """A line's fields, or what is wrong with it."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return "not JSON, or cut off"
    if not isinstance(found, dict):
        return "not a JSON object"
    for name in ("prefill_tokens_per_second", "decode_tokens_per_second"):
        value = found.get(name)
        if name not in found:
            return f"no {name}: not a result of `qedge bench`"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is not None and not (number and 0 <= value < 1e12):
            return f"{name} is {str(value)[:40]!r}, not a rate"
    return found
