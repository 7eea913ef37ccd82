"""Makes what was written outlast a power cut, as far as the file system can."""

from __future__ import annotations

import errno
import os

# What a file system answers that has nothing to sync, or no way to: FUSE, 9p, some of network
# disks, special files (fsync(2)). A disk that fails says EIO or ENOSPC, and that is an error.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS, errno.ENOTTY)


def sync_descriptor(number: int) -> bool:
    """Whether the file's bytes are on the disk for certain. OSError when the disk fails."""
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def sync_folder(path: str) -> bool:
    """The same for the names in a folder."""
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return sync_descriptor(number)
    finally:
        os.close(number)
