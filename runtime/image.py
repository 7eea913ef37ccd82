"""Opens and verifies images. What is in one is said in engine/SPEC.md."""

from __future__ import annotations

import errno
import os

from qedge.runtime._engine import KV_TYPES, SECTIONS, EngineError, Image
from qedge.runtime.arguments import path_name
from qedge.runtime.errors import BudgetError, ImageError

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes milliseconds of a start that is counted in them
    from typing import Any

_MAGIC = b"QEDGEIMG"
_SIZE_AT = 16  # of the image's size in its header
KV_NAMES = {code: name for name, code in KV_TYPES.items()}
PLAN, VOCABULARY = SECTIONS["plan"], SECTIONS["vocabulary"]
TEMPLATE, CHAT, PROVENANCE = (SECTIONS[n] for n in ("chat template", "chat", "provenance"))
# A chat template that begins so asks for every prompt that a program is given (SPEC 3.9).
EVERY_PROMPT = "{#- every prompt is a turn -#}"


def open_image(path: str | os.PathLike[str]) -> Image:
    """Maps and opens an image. ImageError when it is damaged, not an image or not there,
    BudgetError when the system has no room for it, UsageError for what is no path."""
    path = path_name(path)
    name = os.fsencode(path)
    if b"\0" in name:
        raise ImageError(f"{path!r}: a path holds no zero byte; give that of an image (.qimg)")
    try:
        return Image(name)
    except EngineError as error:
        raise ImageError(f"{path}: {_damage(name, error)}") from None
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        if error.errno in (errno.ENOMEM, errno.EFBIG):
            raise BudgetError(
                f"{path}: the system cannot map it ({reason}); raise this process's limit of "
                "address space (ulimit -v), or take a 64-bit system or a smaller model"
            ) from None
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.EAGAIN):
            raise BudgetError(
                f"{path}: {reason}; close models or files, or raise the limit (ulimit -n)"
            ) from None
        if os.path.exists(name) and not os.path.isfile(name):
            reason = "not a regular file"
        raise ImageError(f"{path}: {reason}; give the path of an image (.qimg)") from None


def _damage(name: bytes, error: EngineError) -> str:
    """What is wrong with a file that could be read."""
    try:
        with open(name, "rb") as file:
            start = file.read(_SIZE_AT + 8)
            size = os.fstat(file.fileno()).st_size
    except OSError:
        return f"{error}; build or copy the image again"
    if start.startswith(b"GGUF"):
        return "is a GGUF file; make an image of it with `qedge build`"
    if start.startswith(b"version https://"):
        return "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"
    if not start.startswith(_MAGIC):
        return "is not an image; give one (.qimg), made by `qedge build`"
    if len(start) == _SIZE_AT + 8:
        whole = int.from_bytes(start[_SIZE_AT:], "little")
        if size < whole < 1 << 48:  # a larger one is damage
            return f"cut short: {size:,} of {whole:,} bytes; copy the image again"
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


def check_untouched(image: Image, path: str) -> None:
    """ImageError when somebody wrote other bytes into the file since it was opened."""
    if touched := image.touched():
        try:
            if touched == 1:
                verify_image(image, path)
                image.touched(settle=True)
                return
        except ImageError:
            pass
        raise ImageError(
            f"{path}: was written over while it was in use, so what it said cannot be trusted; "
            "put a new image there by renaming it (mv), and open it again"
        )


def provenance_of(image: Image) -> dict[str, Any]:
    """What the image says of where it comes from; {} when that cannot be read."""
    import json

    try:
        found = json.loads(image.section(PROVENANCE) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
