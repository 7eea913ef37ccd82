"""A lock that one process has, by a file: flock where the file system knows it, else a file
that names its holder. Whoever ends, however it does, has it no longer."""

from __future__ import annotations

import contextlib
import errno
import os

# What a file system answers that has no locks (flock(2); NFS without lockd, some FUSE).
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_TRIES = 5


class FolderLock:
    """A lock at a path, which nobody but the file's owner can open."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._number: int | None = None
        self._named = False  # by the file beside it, where flock is not known

    @property
    def held(self) -> bool:
        return self._number is not None

    def take(self) -> bool:
        """Whether it is ours now. OSError when the file cannot be opened."""
        import fcntl

        if self._number is not None:
            return True
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        number = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(number).st_uid == os.geteuid():
                os.fchmod(number, 0o600)  # an older one let others open it, and hold it
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                taken = True
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    taken = False
                elif error.errno in _NO_LOCKS:
                    taken = self._named = self._take_by_name()
                else:
                    raise
        except BaseException:
            os.close(number)
            raise
        if not taken:
            os.close(number)
            return False
        self._number = number
        return True

    def release(self) -> None:
        if self._number is None:
            return
        if self._named:
            self._named = False
            with contextlib.suppress(OSError):
                os.unlink(self._path + ".held")
        os.close(self._number)
        self._number = None

    def _take_by_name(self) -> bool:
        """A file that is made exclusively, with who made it in it; one whose maker is gone is
        taken away."""
        path, me = self._path + ".held", _identity(os.getpid())
        for _ in range(_TRIES):
            try:
                number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                try:
                    with open(path, encoding="ascii") as file:
                        holder = file.read(200)
                    pid = int(holder.split()[0])
                except (OSError, ValueError, IndexError):
                    return False  # it is being made
                if _identity(pid) == holder or not _take_away(path, holder):
                    return False
                continue
            with os.fdopen(number, "w", encoding="ascii") as file:
                file.write(me)
            return True
        return False


def _take_away(path: str, holder: str) -> bool:
    """Removes the file of a holder that is gone; False when another has it by now."""
    aside = f"{path}.{os.urandom(8).hex()}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return True
    try:
        with open(aside, encoding="ascii") as file:
            if file.read(200) == holder:
                return True
        os.link(aside, path)
        return False
    except OSError:
        return False
    finally:
        os.unlink(aside)


def _identity(pid: int) -> str:
    """A process and this start of the machine: what no later process will be."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            began = file.read().rpartition(")")[2].split()[19]
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return f"{pid} {began} {file.read().strip()}"
    except (OSError, IndexError):
        return f"{pid} gone"
