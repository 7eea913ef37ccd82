"""Where files are kept, and how one appears: whole or not at all, under a name that nobody can
have put a trap at.  What is in a file is not this module's business.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, BinaryIO

from qedge.runtime.errors import UsageError, WriteError

try:
    import fcntl
except ImportError:  # no flock there: names that are drawn and an atomic rename still hold
    fcntl = None  # type: ignore[assignment]

# Written so much at a time, from multiples of it on, a file lies in the page cache in large
# pages, and decodes up to a tenth faster than one written in small pieces.
BUFFER_BYTES = 8 << 20
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
# What fsync says of a file system that cannot sync, or has nothing to: FUSE, 9p, overlays. That
# writing failed is said by others (EIO, ENOSPC, EDQUOT).
CANNOT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS)
_NAME_BYTES = 200  # of a name, kept in a temporary one: file systems take 255
_DRAWN = 8  # characters that are drawn
_unfinished: list[str] = []  # temporary names of this process, the newest last
# Told of the newest one, or "": what a process that is ended by a signal has to remove.
watch: Callable[[str], object] = str


def cache_folder(cache: Path | None = None) -> Path:
    """Where made and fetched files are kept: `cache`, else $QEDGE_CACHE, else the user's
    cache. UsageError where there is no such place."""
    if cache is not None:
        return Path(cache)
    if named := os.environ.get("QEDGE_CACHE"):
        return Path(named).absolute()
    import platformdirs

    with contextlib.suppress(RuntimeError):  # older versions give a literal "~"
        found = Path(platformdirs.user_cache_dir("qedge"))
        if found.is_absolute():
            return found
    raise UsageError("this user has no home to keep files in; name a folder in QEDGE_CACHE")


def private_folder(folder: Path) -> Path:
    """Makes a folder, and those above it, for this user alone; one that is there stays as it
    is. WriteError."""
    with writing(folder):
        missing = [folder, *folder.parents]
        for one in reversed([place for place in missing if not place.exists()]):
            with contextlib.suppress(FileExistsError):  # made meanwhile
                one.mkdir(0o700)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return folder


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns the refusals of a folder of the cache into WriteError."""
    try:
        yield
    except OSError as error:
        raise write_error(folder, error) from error


def write_error(folder: Path, error: OSError) -> WriteError:
    if error.errno in NO_SPACE:
        text = "no space left; free some or name a folder in QEDGE_CACHE"
    else:
        text = f"cannot be written: {error}; name a folder that you may write in QEDGE_CACHE"
    return WriteError(f"{folder}: {text}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds a lock file, waiting for who has it; gives whether the system could lock at all.

    The file stays: removing it would let two processes hold two locks of one name. OSError."""
    with _lock_file(path) as file:
        yield _lock(file, wait=True)


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock file now. OSError."""
    try:
        with _lock_file(path) as file:
            _lock(file, wait=False)
    except BlockingIOError:
        return True
    return False


def _lock_file(path: Path) -> BinaryIO:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _lock(file: IO[bytes], *, wait: bool) -> bool:
    """Whether the file is locked now. BlockingIOError: another has it, and wait is not set."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        raise
    except OSError:  # a network disk without locks
        return False


@contextlib.contextmanager
def held(path: Path, what: str) -> Iterator[None]:
    """Keeps a file for this process alone while it is used. UsageError when another has it."""
    while True:
        try:
            file = opened(path)
        except OSError as error:
            raise WriteError(f"{path}: {error.strerror}; name another file") from error
        with file:
            try:
                _lock(file, wait=False)
            except BlockingIOError:
                raise UsageError(f"{path}: {what}; give each a file of its own") from None
            if not _is_at(file, path):  # another one was put there meanwhile
                continue
            yield
            return


def _is_at(file: IO[bytes], path: str | os.PathLike[str]) -> bool:
    """Whether an open file still has that name."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path, follow_symlinks=True))
    except OSError:
        return False


def sync_file(number: int) -> None:
    """Makes what was written outlast a power cut, where the file system can. OSError."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in CANNOT_SYNC:
            raise


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Makes a rename outlast a power cut; a system that cannot sync a folder is left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file to be read. OSError, too for what is not one: a pipe is not waited for."""
    file = open(path, "rb", opener=_at_once)  # noqa: SIM115 (whoever calls closes it)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))
    return file


def _at_once(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)


def sha256_of(path: Path) -> str:
    """SHA-256 of a regular file, in hexadecimal. OSError."""
    import hashlib  # with OpenSSL, which takes milliseconds of every start

    digest = hashlib.sha256()
    with opened(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def new_file(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """A file that appears under its name whole and synced, or not at all. WriteError.

    A link stays: what it points to is replaced, in its own folder. A file that is replaced
    hands on its permissions; a new one gets those of the umask, or is its owner's alone
    (private). Until then the bytes lie beside it under a name that is drawn; if this process is
    killed, whoever writes the same file next removes them."""
    final = _target(path)
    folder, before = os.path.dirname(final), _status(final)
    begin, temporary = _parts(final)[0], ""
    try:
        if not os.path.isdir(folder):
            raise WriteError(f"{path}: there is no folder {folder}; make it first")
        _remove_stale(final)
        mode = 0o600 if private or before is not None else 0o666
        file, temporary = _create(final, mode)
        _unfinished.append(temporary)
        watch(temporary)
        with file:
            if before is not None and not private:
                _hand_on(before, file.fileno())
            yield file
            file.flush()
            sync_file(file.fileno())
            os.replace(temporary, final)
        sync_folder(folder)
    except OSError as error:
        name = os.fsdecode(error.filename or "")
        if name not in ("", folder, final, str(path)) and (
            os.path.dirname(name) != folder or not os.path.basename(name).startswith(begin)
        ):
            raise
        reason = error.strerror or str(error)
        raise WriteError(f"{path}: {reason}; nothing was written there") from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            _unfinished.remove(temporary)
            watch(_unfinished[-1] if _unfinished else "")


def _target(path: Path) -> str:
    """The file that a name stands for, through links. WriteError when there can be none."""
    final = os.path.realpath(path)
    status = _status(final)
    if not path.name or (status is not None and not stat.S_ISREG(status.st_mode)):
        raise WriteError(f"{path}: not a regular file; remove it, or name another output")
    return final


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path, follow_symlinks=False)  # a link is left only where links run round
    except OSError:
        return None


def _hand_on(before: os.stat_result, number: int) -> None:
    """Gives a file the permissions, and where that is allowed the owner, of the one before."""
    with contextlib.suppress(OSError):  # of another user, or a file system without either
        if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
            os.fchown(number, before.st_uid, before.st_gid)
    with contextlib.suppress(OSError):
        os.fchmod(number, before.st_mode & 0o777)


def _parts(final: str) -> tuple[str, str]:
    """How temporary names of a file begin and end; between them stands what is drawn."""
    name = os.path.basename(final)
    while len(os.fsencode(name)) > _NAME_BYTES:
        name = name[:-1]
    return f".{name}.", ".part"


def _create(final: str, mode: int) -> tuple[BinaryIO, str]:
    """A new file beside `final`, locked for as long as it is open, and its name."""
    begin, end = _parts(final)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
    while True:
        drawn = os.urandom(_DRAWN // 2).hex()
        temporary = os.path.join(os.path.dirname(final), f"{begin}{drawn}{end}")
        opener = partial(_open, flags, mode)
        try:
            file = open(temporary, "w+b", BUFFER_BYTES, opener=opener)  # noqa: SIM115 (its lock)
        except FileExistsError:
            continue
        with contextlib.suppress(BlockingIOError):
            _lock(file, wait=False)
            if _is_at(file, temporary):
                return file, temporary
        file.close()  # taken for a stale one before it was locked, and removed


def _open(flags: int, mode: int, name: str, _: int) -> int:
    return os.open(name, flags, mode)


def _remove_stale(final: str) -> None:
    """Removes what killed processes left of writing this file: their names, and no lock."""
    begin, end = _parts(final)
    folder = os.path.dirname(final)
    try:
        names = os.listdir(folder)
    except OSError:  # it may be written to, and not be read
        return
    for name in names:
        drawn = name[len(begin) : -len(end)]
        if not (name.startswith(begin) and name.endswith(end) and len(drawn) == _DRAWN):
            continue
        place = os.path.join(folder, name)
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0)
        with contextlib.suppress(OSError), os.fdopen(os.open(place, flags), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
                continue
            if _lock(file, wait=False) and _is_at(file, place):
                os.unlink(place)
