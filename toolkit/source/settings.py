"""Typed access to one JSON object of a model's settings; null counts as absent, as it does for
transformers.  What the settings mean is said elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError


class Settings:
    """The values of one object in the file `path`, for messages."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        self.values = values
        self.path = path

    def get(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ImageError(f"{self.path}: {key} is missing")
        return value

    def only(self, key: str, allowed: tuple[object, ...]) -> None:
        """ImageError unless the value is one of those allowed; 1 is not true, 0 not false."""
        value = self.values.get(key)
        for item in allowed:
            if value == item and isinstance(value, bool) == isinstance(item, bool):
                return
        raise ImageError(f"{self.path}: {key} is {value!r:.60}; only {allowed[0]} is supported")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.get(key, default)
        if type(value) is not int:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.get(key, default)
        if type(value) not in (int, float) or not abs(value) <= 1e300:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not a number of use")
        return float(value)

    def numbers(self, key: str, count: int) -> list[float]:
        """A list of so many numbers."""
        value = self.get(key, None)
        if not isinstance(value, list) or len(value) != count:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not {count} numbers")
        return [Settings({key: item}, self.path).number(key) for item in value]

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if type(value) is not bool:
            raise ImageError(f"{self.path}: {key} is {value!r:.60}, not true or false")
        return value
