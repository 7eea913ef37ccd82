"""Signatures of images: Ed25519 (RFC 8032) over an image's id and a security counter, behind
the image's last byte (runtime/engine/SPEC.md 3.8).

A board whose firmware was built with a public key takes images only that its owner signed, and
none whose counter is below one that it has accepted.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from qedge.runtime._engine import Image
from qedge.runtime.errors import ImageError, UsageError, WriteError
from qedge.runtime.image import open_image, verify_image
from qedge.toolkit.files import new_file

MAGIC, VERSION, CONTEXT = b"QEDGESIG", 1, b"qedge image v1\n\0"
_TRAILER = struct.Struct("<8s2I64s")
TRAILER_BYTES = _TRAILER.size
COUNTER_LIMIT = 2**32 - 1
_PIECE_BYTES = 8 << 20


def _message(image_id: bytes, counter: int) -> bytes:
    return CONTEXT + image_id + struct.pack("<I", counter)


def end(image: Image) -> int:
    """Where the image in a file ends, with its signature when it has one."""
    signed = image.read(image.bytes, len(MAGIC)) == MAGIC
    return image.bytes + (_TRAILER.size if signed else 0)


@dataclass(frozen=True, slots=True)
class SignedImage:
    """A file with an image and the signature behind it, if it has one: mapped once, so that
    what was checked is what is sent, and no byte of it is held beside the mapping."""

    path: Path
    image: Image
    bytes: int  # with the signature

    @classmethod
    def open(cls, path: Path) -> SignedImage:
        """ImageError when it is damaged or none. Weights are not verified."""
        image = open_image(path)
        return cls(path, image, end(image))


def is_signed(image: Image) -> bool:
    """Whether a signature follows the image, be it right or not."""
    return end(image) > image.bytes


def check(image: Image, path: Path, key: bytes, floor: int) -> None:
    """ImageError unless the image has a signature by `key` and a counter of at least
    `floor`."""
    trailer = image.read(image.bytes, _TRAILER.size)
    if len(trailer) < _TRAILER.size or not trailer.startswith(MAGIC):
        raise ImageError(
            f"{path}: is not signed, and the board wants a signature; sign it (`qedge sign`)"
        )
    _, version, counter, signature = _TRAILER.unpack(trailer)
    try:
        if version != VERSION:
            raise InvalidSignature
        public = Ed25519PublicKey.from_public_bytes(key)
        public.verify(signature, _message(image.id, counter))
    except InvalidSignature:
        raise ImageError(
            f"{path}: its signature is not by the key that the board trusts "
            f"({key[:8].hex()}…); sign it with that one"
        ) from None
    if counter < floor:
        raise ImageError(
            f"{path}: its security counter is {counter}, the board has accepted {floor}; sign "
            f"it again with --counter {floor} or more, if it is to replace that"
        )


def sign(path: Path, key: Ed25519PrivateKey, counter: int) -> None:
    """Puts a signature behind the image, in place of one that is there."""
    if not 0 <= counter <= COUNTER_LIMIT:
        raise UsageError(f"--counter {counter}: give a number from 0 to {COUNTER_LIMIT:,}")
    image = open_image(path)
    verify_image(image, path)
    trailer = _TRAILER.pack(MAGIC, VERSION, counter, key.sign(_message(image.id, counter)))
    with new_file(path) as file:
        for at in range(0, image.bytes, _PIECE_BYTES):
            file.write(image.read(at, min(_PIECE_BYTES, image.bytes - at)))
        file.write(trailer)


def new_key(path: Path) -> Path:
    """Writes a private key (PEM, for its owner's eyes) and beside it NAME.pub; returns that.
    WriteError when one of them is there already."""
    public = path.with_name(path.name + ".pub")
    key = Ed25519PrivateKey.generate()
    private_text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public_text = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    for place, text, mode in ((path, private_text, 0o600), (public, public_text, 0o644)):
        try:
            number = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            raise WriteError(f"{place}: {error.strerror}; name another file") from error
        with os.fdopen(number, "wb") as file:
            file.write(text)
    return public


def private_key(path: Path) -> Ed25519PrivateKey:
    """A private key's file. UsageError when it is none of Ed25519."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror}; give a private key's file (`qedge keys new` makes one)"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path}: not a private key ({error}); make one: qedge keys new"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: not a key of Ed25519; make one: qedge keys new")
    return key


def public_key(path: Path) -> bytes:
    """The 32 bytes of a public key's file, or of a private one's. UsageError."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; give a key's .pub file") from error
    except (ValueError, UnsupportedAlgorithm):
        return private_key(path).public_key().public_bytes_raw()
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{path}: not a key of Ed25519; make one: qedge keys new")
    return key.public_bytes_raw()
