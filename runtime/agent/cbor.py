"""The part of CBOR (RFC 8949) that the link's messages use, since a board has nothing but
Python: whole numbers, byte and text strings, arrays, maps, true, false and null; no tags, no
floats (the link has them as bits), no indefinite lengths.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEPTH = 8
_SIMPLE: dict[int, Any] = {20: False, 21: True, 22: None}


def dumps(value: Any) -> bytes:
    """A value's bytes. TypeError for what has no place in a message."""
    found = bytearray()
    _put(found, value)
    return bytes(found)


def _head(found: bytearray, major: int, count: int) -> None:
    if count < 24:
        found.append(major << 5 | count)
        return
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if count < 1 << 8 * size:
            found.append(major << 5 | code)
            found += count.to_bytes(size, "big")
            return
    raise TypeError(f"{count} does not fit into 64 bits")


def _put(found: bytearray, value: Any) -> None:
    if value is None or isinstance(value, bool):
        found.append(7 << 5 | {False: 20, True: 21, None: 22}[value])
    elif isinstance(value, int):
        _head(found, 1 if value < 0 else 0, -1 - value if value < 0 else value)
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _head(found, 2, len(value))
        found += value
    elif isinstance(value, str):
        data = value.encode()
        _head(found, 3, len(data))
        found += data
    elif isinstance(value, (list, tuple)):
        _head(found, 4, len(value))
        for one in value:
            _put(found, one)
    elif isinstance(value, dict):
        _head(found, 5, len(value))
        for key, one in value.items():
            _put(found, key)
            _put(found, one)
    else:
        raise TypeError(f"no message holds a {type(value).__name__}")


def loads(data: bytes) -> Any:
    """The value of bytes. ValueError for anything else than one whole value of this part."""
    value, end = _take(data, 0, 0)
    if end != len(data):
        raise ValueError("bytes behind the value")
    return value


def _take(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    if at >= len(data) or depth > _DEPTH:
        raise ValueError("the value ends early, or nests too deep")
    major, count = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if count not in _SIMPLE:
            raise ValueError(f"simple value {count}")
        return _SIMPLE[count], at
    if count >= 24:
        if count > 27:
            raise ValueError("an indefinite length")
        size = 1 << count - 24
        if at + size > len(data):
            raise ValueError("the value ends early")
        count, at = int.from_bytes(data[at : at + size], "big"), at + size
    if major == 0:
        return count, at
    if major == 1:
        return -1 - count, at
    if major in (2, 3):
        if count > len(data) - at:
            raise ValueError("a string ends early")
        piece = bytes(data[at : at + count])
        return piece if major == 2 else piece.decode(), at + count
    if major > 5 or count > len(data) - at:
        raise ValueError(f"major type {major}, or more items than bytes")
    if major == 4:
        items = []
        for _ in range(count):
            item, at = _take(data, at, depth + 1)
            items.append(item)
        return items, at
    found = {}
    for _ in range(count):
        key, at = _take(data, at, depth + 1)
        if not isinstance(key, (str, int)):
            raise ValueError("a key is neither text nor a number")
        found[key], at = _take(data, at, depth + 1)
    return found, at
