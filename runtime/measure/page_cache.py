"""How much of a file the system keeps in memory, and how to make it forget the file."""

from __future__ import annotations

import os


def forget(path: str | os.PathLike[str]) -> bool:
    """Asks the system to drop a file's pages; those that a process has mapped, or that a file
    system in memory holds, stay: `share` tells. False where it cannot be asked. OSError."""
    if not hasattr(os, "posix_fadvise") or not os.path.isfile(path):
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # pages not yet written would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
    return True


def share(path: str | os.PathLike[str]) -> float | None:
    """The share of a file's pages, 0 to 1, that need no reading from storage (mincore); None
    where the system does not tell. Linux says 1 of files that the caller may not write."""
    if not os.path.isfile(path):  # opening a pipe would wait
        return None
    import ctypes
    import mmap

    try:
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as view:
            size = len(view)
            start = (ctypes.c_char * size).from_buffer(view)
            pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            failed = ctypes.CDLL(None).mincore(start, ctypes.c_size_t(size), pages)
            del start  # or the view cannot be closed
            return None if failed else sum(page & 1 for page in pages) / len(pages)
    except (OSError, ValueError, AttributeError):
        return None
