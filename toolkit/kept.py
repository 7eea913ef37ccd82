"""What the cache keeps of things that take long to make: believed only with the hash that it
had when it was made, and made again, by one process at a time, when it is damaged. Whoever may
write to the cache may write the hash: it guards against accidents, permissions against others.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from qedge.toolkit.files import cache_folder, locked, new_file, opened, private_folder, writing

_BLOCK_BYTES = 1 << 20
_log = logging.getLogger("qedge")


def keep(path: Path, data: bytes, *, runs: bool = False) -> None:
    """Writes a file of the cache, and its hash beside it. runs: it is a program. WriteError."""
    private_folder(path.parent)
    with new_file(path) as file:
        file.write(data)
        if runs:
            os.fchmod(file.fileno(), 0o700)
    with new_file(_hash_of(path)) as file:
        file.write(hashlib.sha256(data).hexdigest().encode() + b"\n")


def kept(path: Path, *, say: bool = True) -> bytes | None:
    """A file that `keep` wrote, if it still has its hash; None when it is to be made again,
    which is said if it was there and is damaged."""
    try:
        with opened(path) as file, opened(_hash_of(path)) as hashed:
            data, wanted = file.read(), hashed.read()
    except OSError:
        return None
    if hashlib.sha256(data).hexdigest().encode() == wanted.strip():
        return data
    if say:
        say_damaged(path)
    return None


def kept_or_made(path: Path, make: Callable[[], bytes], *, runs: bool = False) -> bytes:
    """A file of the cache; made, by one process at a time, unless it is there with its hash.
    WriteError where the cache takes none."""
    data = kept(path)
    if data is None:
        with _alone(path):
            data = kept(path, say=False)  # another process may just have made it
            if data is None:
                data = make()
                keep(path, data, runs=runs)
    return data


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Only one process makes what is kept at a path; gives whether that is sure. WriteError."""
    private_folder(path.parent)
    with contextlib.ExitStack() as stack:
        with writing(path.parent):  # what goes wrong in making it is not the folder's fault
            alone = stack.enter_context(locked(path.with_name(f".{path.name}.lock")))
        yield alone


def made_folder(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder of the cache, whose files have the hash that they had when `make` filled it;
    filled anew, by one process at a time, unless it is so. WriteError, and what make says."""
    wanted = _hash_of(folder)
    if not _is_as_made(folder, wanted):
        with _alone(folder) as alone:
            if not _is_as_made(folder, wanted):  # another process may just have made it
                if wanted.exists():
                    say_damaged(folder)
                _fill(folder, make, alone)
                with new_file(wanted) as file:
                    file.write(_tree_hash(folder).encode())
    return folder


def _is_as_made(folder: Path, wanted: Path) -> bool:
    try:
        with opened(wanted) as file:
            return file.read() == _tree_hash(folder).encode()
    except OSError:
        return False


def _fill(folder: Path, make: Callable[[Path], object], alone: bool) -> None:
    prefix = f".{folder.name}.made-"
    for stale in folder.parent.glob(prefix + "*") if alone else ():  # of one that was killed
        shutil.rmtree(stale, ignore_errors=True)
    with writing(folder.parent):
        private = tempfile.TemporaryDirectory(
            prefix=prefix, dir=folder.parent, ignore_cleanup_errors=True
        )
        new = Path(private.name) / "new"
        new.mkdir(0o700)
    with private:
        make(new)
        with writing(folder.parent):
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(new, folder)


def _tree_hash(folder: Path) -> str:
    """SHA-256 of names and bytes; where a file has holes it has zeros. OSError."""
    digest = hashlib.sha256()
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = os.path.join(root, name)
            digest.update(os.fsencode(os.path.relpath(path, folder)) + b"\0")
            if os.path.islink(path):
                digest.update(os.fsencode(os.readlink(path)) + b"\0")
                continue
            with opened(path) as file:
                for at, block in _blocks(file):
                    digest.update(b"%d %d " % (at, len(block)) + block)
    return digest.hexdigest()


def _blocks(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(place, bytes) of a file's blocks that are not all zeros, and of its last one; holes are
    not read."""
    size, at, number = os.fstat(file.fileno()).st_size, 0, file.fileno()
    zeros = bytes(_BLOCK_BYTES)
    while at < size:
        try:
            at = os.lseek(number, at, os.SEEK_DATA) // _BLOCK_BYTES * _BLOCK_BYTES
        except OSError:  # no data behind
            break
        block = os.pread(number, _BLOCK_BYTES, at)
        if block != zeros[: len(block)]:
            yield at, block
        at += _BLOCK_BYTES
    yield size, b""


def say_damaged(path: Path) -> None:
    _log.warning("%s: what the cache keeps here is damaged; it is made again", path)


def _hash_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def tool_environment(variable: str, *places: tuple[str, str]) -> dict[str, str]:
    """The environment for a program that keeps things in the user's home: below the first of
    `places` (a variable, and a path below its folder) that is set. Where that cannot be
    written, `variable` names a folder in our cache. WriteError when that cannot be made."""
    found = dict(os.environ)
    if variable not in found:
        set_ones = (
            os.path.join(found[name], below) for name, below in places if found.get(name)
        )
        place = next(set_ones, "")
        while place and not os.path.exists(place):
            place = os.path.dirname(place)
        if not os.path.isabs(place) or not os.access(place, os.W_OK | os.X_OK):
            found[variable] = str(private_folder(cache_folder() / variable.lower()))
    return found


def zig_environment() -> dict[str, str]:
    """For zig's compiler, which makes its own libraries once."""
    places = (("XDG_CACHE_HOME", "zig"), ("HOME", ".cache/zig"))
    return tool_environment("ZIG_GLOBAL_CACHE_DIR", *places)
