"""Opens and verifies images. What is in one is said in engine/SPEC.md."""

from __future__ import annotations

import os

from qedge.runtime._engine import EngineError, Image
from qedge.runtime.errors import ImageError

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
}


def open_image(path: str | os.PathLike[str]) -> Image:
    """Maps and opens an image. ImageError when it is damaged, not an image or not there."""
    try:
        return Image(os.fsencode(path))
    except EngineError as error:
        raise ImageError(f"{path}: {error}; build or copy the image again") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, OSError) and error.errno:
            reason = os.strerror(error.errno)
        raise ImageError(f"{path}: {reason}; give the path of an image (.qimg)") from None


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
