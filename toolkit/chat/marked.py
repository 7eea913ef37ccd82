"""Text that knows which of its characters the template wrote, through whatever a template does
with it. No tokenizer and no jinja2 here; it stands alone: the renderer loads it by itself.

Fails to the safe side: what an operation is not known to keep, counts as written by the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

_DIRECTIVE = re.compile(
    r"%(?P<key>\([^)]*\))?(?P<form>[#0\- +]*(?:\*|\d+)?(?:\.(?:\*|\d+))?[hlL]?)"
    r"(?P<kind>[diouxXeEfFgGcrsa%])"
)


class Marked(str):
    """A str with a byte a character in `own`: 1 where the template wrote it, 0 elsewhere."""

    own: bytes

    def __new__(cls, text: str = "", own: bytes | None = None) -> Marked:
        made = super().__new__(cls, text)
        made.own = bytes(len(made)) if own is None or len(own) != len(made) else own
        return made

    def __str__(self) -> str:
        return self

    def plain(self) -> str:
        """The same text as nothing but a str."""
        return str.__getitem__(self, slice(None)) if type(self) is str else "".join((self, ""))

    def runs(self) -> list[tuple[int, int]]:
        """(start, stop) of what the template wrote, ascending."""
        found, at = [], 0
        for wrote, group in groupby(self.own):
            size = sum(1 for _ in group)
            if wrote:
                found.append((at, at + size))
            at += size
        return found

    # ---- joining ----

    def __add__(self, other: Any) -> Any:
        return joined((self, other)) if _is_text(other) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return joined((other, self)) if _is_text(other) else NotImplemented

    def __mul__(self, count: Any) -> Any:
        return Marked(super().__mul__(count), self.own * count)

    __rmul__ = __mul__

    def join(self, parts: Iterable[Any]) -> str:
        found: list[Any] = []
        for part in parts:
            found += [self, part] if found else [part]
        if not all(isinstance(part, str) for part in found):
            return super().join(found)  # says which one is no text
        return joined(found)

    def __mod__(self, values: Any) -> str:
        text = super().__mod__(values)
        made = joined(_percent_parts(self, values))
        return made if made == text else Marked(text)

    # ---- parts ----

    def __getitem__(self, key: Any) -> Marked:
        part = super().__getitem__(key)
        own = self.own[key] if isinstance(key, slice) else bytes((self.own[key],))
        return Marked(part, own)

    def __iter__(self) -> Iterator[Marked]:
        return (self[at] for at in range(len(self)))

    def strip(self, chars: str | None = None) -> Marked:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None) -> Marked:
        return self[len(self) - len(super().lstrip(chars)) :]

    def rstrip(self, chars: str | None = None) -> Marked:
        return self[: len(super().rstrip(chars))]

    def removeprefix(self, prefix: str) -> Marked:
        return self[len(prefix) :] if prefix and self.startswith(prefix) else self[:]

    def removesuffix(self, suffix: str) -> Marked:
        return self[: -len(suffix)] if suffix and self.endswith(suffix) else self[:]

    def split(self, sep: str | None = None, maxsplit: Any = -1) -> list[Any]:
        return self._located(super().split(sep, maxsplit), sep)

    def rsplit(self, sep: str | None = None, maxsplit: Any = -1) -> list[Any]:
        return self._located(super().rsplit(sep, maxsplit), sep)

    def splitlines(self, keepends: bool = False) -> list[Any]:
        found, at = [], 0
        for whole, part in zip(super().splitlines(True), super().splitlines(keepends)):
            found.append(self[at : at + len(part)])
            at += len(whole)
        return found

    def partition(self, sep: str) -> tuple[Any, Any, Any]:
        return self._three([len(part) for part in super().partition(sep)])

    def rpartition(self, sep: str) -> tuple[Any, Any, Any]:
        return self._three([len(part) for part in super().rpartition(sep)])

    def _three(self, sizes: list[int]) -> tuple[Any, Any, Any]:
        first, second = sizes[0], sizes[0] + sizes[1]
        return self[:first], self[first:second], self[second:]

    def _located(self, parts: list[str], sep: str | None) -> list[Any]:
        """The parts of a split, which lie behind one another in the text."""
        found, at = [], 0
        for part in parts:
            if sep is None:  # only white space lies between, and none begins a part
                at = str.find(self, part, at)
            found.append(self[at : at + len(part)])
            at += len(part) + len(sep or "")
        return found

    # ---- changes ----

    def replace(self, old: str, new: str, count: Any = -1) -> Marked:
        text = super().replace(old, new, count)
        parts: list[str] = []
        left, at = len(self) + 1 if count < 0 else count, 0
        if not old:
            return _whole(text, (self, new))
        while left and (found := str.find(self, old, at)) >= 0:
            parts += [self[at:found], new]
            at, left = found + len(old), left - 1
        made = joined([*parts, self[at:]])
        return made if made == text else Marked(text)

    def lower(self) -> Marked:
        return self._letters(str.lower)

    def upper(self) -> Marked:
        return self._letters(str.upper)

    def casefold(self) -> Marked:
        return self._letters(str.casefold)

    def swapcase(self) -> Marked:
        return self._letters(str.swapcase)

    def capitalize(self) -> Marked:
        return self._letters(str.capitalize)

    def title(self) -> Marked:
        return self._letters(str.title)

    def _letters(self, change: Callable[[str], str]) -> Marked:
        """A change letter by letter; a letter may become several."""
        text = change(self)
        if len(text) == len(self):
            return Marked(text, self.own)
        sizes = [len(change(letter)) for letter in self.plain()]
        return Marked(text, b"".join(bytes((o,)) * n for o, n in zip(self.own, sizes)))

    def center(self, *values: Any) -> Marked:
        return _whole(super().center(*values), (self, *values))

    def ljust(self, *values: Any) -> Marked:
        return _whole(super().ljust(*values), (self, *values))

    def rjust(self, *values: Any) -> Marked:
        return _whole(super().rjust(*values), (self, *values))

    def zfill(self, width: Any) -> Marked:
        return _whole(super().zfill(width), (self,))

    def expandtabs(self, *values: Any, **named: Any) -> Marked:
        return _whole(super().expandtabs(*values, **named), (self,))


def written(text: str) -> Marked:
    """Text that the template itself wrote."""
    return Marked(text, b"\1" * len(text))


def joined(parts: Iterable[Any]) -> Marked:
    """Texts behind one another; one that is not marked is the user's."""
    kept = list(parts)
    own = b"".join(p.own if isinstance(p, Marked) else bytes(len(p)) for p in kept)
    return Marked("".join(kept), own)


def is_written(value: Any) -> bool:
    """Whether the template wrote all of a value: text, or what holds none of anybody's."""
    if isinstance(value, Marked):
        return 0 not in value.own
    return value is None or isinstance(value, (bool, int, float))


def _whole(text: str, values: Iterable[Any]) -> Marked:
    """A text made of `values`: the template's when all of them are."""
    return written(text) if all(map(is_written, values)) else Marked(text)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and not hasattr(value, "__html__")  # Markup adds for itself


def _percent_parts(form: Marked, values: Any) -> Iterator[str]:
    """What `form % values` is made of; the caller compares it with the result."""
    given = iter(values if isinstance(values, tuple) else (values,))
    at = 0
    for found in _DIRECTIVE.finditer(form.plain()):
        yield form[at : found.start()]
        at = found.end()
        if found["kind"] == "%":
            yield form[found.start() : found.start() + 1]
            continue
        if found["key"]:
            value: Any = values[found["key"][1:-1]]
        elif "*" in found["form"]:
            return  # a width among the values: the whole is the user's
        else:
            value = next(given)
        if found["kind"] == "s" and not found["form"] and isinstance(value, str):
            yield value
        else:
            yield _whole(f"%{found['form']}{found['kind']}" % (value,), (value,))
    yield form[at:]
