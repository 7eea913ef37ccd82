"""What callers give: taken as it is meant, or refused in words. What the values mean is not
known here."""

from __future__ import annotations

import os
from operator import index

from qedge.runtime.errors import ImageError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing these takes milliseconds of a start that is counted in them
    from collections.abc import Iterable
    from typing import Any

_MOST_SHOWN = 60  # characters of a wrong value


def shown(value: object) -> str:
    """A value as a message shows it."""
    try:
        text = repr(value)
    except Exception:  # of somebody else's type; or an integer of more digits than are printed
        text = f"a {type(value).__name__}"
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "…"


def whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number from low to high. UsageError."""
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        number = index(value)
        if low <= number <= high:
            return number
    raise UsageError(f"{name} is {shown(value)}; give a whole number from {low:,} to {high:,}")


def number(name: str, value: Any, low: float, high: float) -> float:
    """A number from low to high. UsageError."""
    try:
        if not isinstance(value, (str, bytes, bytearray, bool)):
            found = float(value)
            if low <= found <= high:
                return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise UsageError(f"{name} is {shown(value)}; give a number from {low:g} to {high:g}")


def is_text(value: object) -> bool:
    return isinstance(value, (str, bytes, bytearray, memoryview))


def utf8(what: str, text: Any) -> bytes:
    """The bytes of a text. UsageError for what is none, ImageError where it has no UTF-8."""
    if not is_text(text):
        raise UsageError(f"{what} is {shown(text)}; give a text, str or bytes")
    try:
        return text.encode("utf-8") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise ImageError(f"the text is not UTF-8 ({error.reason}); convert it first") from None


def stops(value: Any) -> list[str]:
    """The strings that end a text: one, or several. UsageError."""
    try:
        found = [value] if isinstance(value, str) else list(value)
    except TypeError:
        found = [value]
    wrong = [one for one in found if not isinstance(one, str)]
    if wrong or isinstance(value, (bytes, bytearray)):
        raise UsageError(
            f"stop is {shown(value)}; give a text or several, or leave it out for none"
        )
    if "" in found:
        raise UsageError("an empty stop string would stop everything; leave it out")
    return found


def listed(what: str, values: Iterable[Any]) -> list[Any]:
    """A sequence's items. UsageError for what is none."""
    try:
        return list(values)
    except TypeError:
        raise UsageError(f"{what} is {shown(values)}; give a text or a list of ids") from None


def path_name(path: Any) -> str:
    """A path as text. UsageError for what is none."""
    try:
        return os.fsdecode(path)
    except TypeError:
        raise UsageError(
            f"{shown(path)} is not a path; give that of an image (.qimg)"
        ) from None
