"""The values of a message, each of its type and in its range, or LINK_MESSAGE: nothing that was
sent is taken for something else. firmware/job.c reads them by the same rules."""

from __future__ import annotations

from qedge.runtime.agent.numbers import LINK_MESSAGE, LINK_RANGE
from qedge.runtime.agent.slots import SlotError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_MISSING = object()
WORD_MOST = (1 << 32) - 1


def whole(
    values: Mapping[str, Any], key: str, low: int, high: int, default: int | None = None
) -> int:
    """A whole number from low to high."""
    value = values.get(key, default)
    if type(value) is not int or not low <= value <= high:
        raise SlotError(LINK_MESSAGE, f"{key} is not a whole number from {low} to {high}")
    return value


def flag(values: Mapping[str, Any], key: str, default: bool) -> bool:
    """True or false."""
    value = values.get(key, default)
    if type(value) is not bool:
        raise SlotError(LINK_MESSAGE, f"{key} is neither true nor false")
    return value


def data(values: Mapping[str, Any], key: str) -> bytes:
    """Bytes, or the UTF-8 of a text."""
    value = values.get(key)
    if isinstance(value, str):
        value = value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes):
        raise SlotError(LINK_MESSAGE, f"{key} is missing, or neither bytes nor text")
    return value


def session(values: Mapping[str, Any]) -> dict[str, Any]:
    """How a model is to be opened: options of `Model.open`, where there are any."""
    found: dict[str, Any] = {}
    for name, most in (("context", WORD_MOST), ("threads", 64), ("batch", 512)):
        if name in values:
            found[name] = whole(values, name, 1, most)
    if "memory" in values:
        found["memory"] = whole(values, "memory", 0, 1 << 50)
    if "kernels" in values:
        found["kernels"] = data(values, "kernels").decode("utf-8", "replace")
    for name in ("pin", "allow_paging"):
        if name in values:
            found[name] = flag(values, name, False)
    return found


def slot(values: Mapping[str, Any], key: str = "slot") -> int:
    """One of the two slots. LINK_RANGE."""
    value = values.get(key, _MISSING)
    if type(value) is not int or value not in (0, 1):
        raise SlotError(LINK_RANGE, f"{key} is not a slot")
    return value


def image_id(values: Mapping[str, Any]) -> str | None:
    """The image that a message names, if it names one."""
    if "id" not in values:
        return None
    found = data(values, "id")
    if len(found) != 32:
        raise SlotError(LINK_MESSAGE, "id is not 32 bytes")
    return found.hex()
