"""Opens and verifies images. What is in one is said in engine/SPEC.md."""

from __future__ import annotations

import os

from qedge.runtime._engine import EngineError, Image
from qedge.runtime.errors import ImageError

_MAGIC = b"QEDGEIMG"
KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
KV_NAMES = {code: name for name, code in KV_TYPES.items()}
SECTIONS = {
    1: "config",
    2: "plan",
    3: "vocabulary",
    4: "chat template",
    5: "rope",
    6: "tensors",
    7: "weights",
    8: "golden",
    9: "provenance",
    10: "chat",
}
TEMPLATE, CHAT = 4, 10
# A chat template that begins so asks for every prompt that a program is given (SPEC 3.9).
EVERY_PROMPT = "{#- every prompt is a turn -#}"


def open_image(path: str | os.PathLike[str]) -> Image:
    """Maps and opens an image. ImageError when it is damaged, not an image or not there."""
    name = os.fsencode(path)
    if b"\0" in name:
        raise ImageError(f"{path!r}: a path holds no zero byte; give that of an image (.qimg)")
    try:
        return Image(name)
    except EngineError as error:
        raise ImageError(f"{path}: {_damage(name, error)}") from None
    except OSError as error:
        reason = os.strerror(error.errno)
        if os.path.exists(name) and not os.path.isfile(name):
            reason = "not a regular file"
        raise ImageError(f"{path}: {reason}; give the path of an image (.qimg)") from None


def _damage(name: bytes, error: EngineError) -> str:
    """What is wrong with a file that could be read."""
    try:
        with open(name, "rb") as file:
            start = file.read(len(_MAGIC))
    except OSError:
        start = _MAGIC
    if start.startswith(b"GGUF"):
        return "is a GGUF file; make an image of it with `qedge build`"
    if start != _MAGIC:
        return "is not an image; give one (.qimg), made by `qedge build`"
    return f"{error}; build or copy the image again"


def verify_image(image: Image, path: str | os.PathLike[str] = "image") -> int:
    """Checks every leaf of the hash tree, weights too; returns their number. ImageError."""
    first = 0
    try:
        while count := image.verify(first, 64):
            first += count
    except EngineError as error:
        raise ImageError(
            f"{path}: {error} (in leaves {first} to {first + 63}); copy it again"
        ) from None
    return first
