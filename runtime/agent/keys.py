"""Whose images a board with Linux takes: the key that its administrator put there, if any, and
the signature behind an image (engine/SPEC.md 3.8). Where a key lies that others could have put
there, nothing is taken."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qedge.runtime._engine import Image

KEY_PATH = "/etc/qedge/key.pub"  # made by `qedge keys new`: a public key of Ed25519, PEM
_DER_HEAD = bytes.fromhex("302a300506032b6570032100")  # RFC 8410: it names the algorithm
_PEM_BYTES = 4096


class NotTrusted(Exception):
    """Why an image, or the key itself, is not trusted. older: the signature is right, but its
    counter is below the floor."""

    def __init__(self, text: str, older: bool = False) -> None:
        super().__init__(text)
        self.older = older


def trusted_key(path: str = KEY_PATH, owner: int = 0) -> bytes | None:
    """The 32 bytes of the key in a file; None when there is no such file. NotTrusted when
    another than `owner` may write it or a folder that it lies in, or when it is no key."""
    import stat

    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NotTrusted(f"{path}: {error.strerror}") from None
    with os.fdopen(number, "rb") as file:
        places = [(path, os.fstat(number))]
        for folder in (os.path.abspath(path), os.path.realpath(path)):
            while (above := os.path.dirname(folder)) != folder:
                folder = above
                places.append((folder, os.stat(folder)))
        for name, found in places:
            loose = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
            if found.st_uid not in (0, owner) or (loose and not sticky):
                raise NotTrusted(f"{name}: others than its owner may write it")
        return _parse(path, file.read(_PEM_BYTES))


def _parse(path: str, text: bytes) -> bytes:
    import binascii

    lines = [line.strip() for line in text.split(b"\n") if line.strip()]
    try:
        if (
            lines[0] != b"-----BEGIN PUBLIC KEY-----"
            or lines[-1] != b"-----END PUBLIC KEY-----"
        ):
            raise ValueError
        data = binascii.a2b_base64(b"".join(lines[1:-1]))
        if not data.startswith(_DER_HEAD) or len(data) != len(_DER_HEAD) + 32:
            raise ValueError
    except (ValueError, IndexError):
        raise NotTrusted(f"{path}: is not a public key of Ed25519 (PEM)") from None
    return data[len(_DER_HEAD) :]


def check(image: Image, key: bytes | None, floor: int) -> int:
    """The security counter of an image's signature; 0 when no key is wanted. NotTrusted."""
    if key is None:
        return 0
    counter = image.signature(key)
    if counter is None:
        raise NotTrusted("it has no signature by the key that this board trusts")
    if counter < floor:
        text = f"its security counter is {counter}, the board has accepted {floor}"
        raise NotTrusted(text, older=True)
    return int(counter)
