"""Texts on their way in and out: what it means when the engine refuses, token bytes to text
pieces, and what a terminal may be shown."""

from __future__ import annotations

import codecs

from qedge.runtime._engine import ERR_CONTEXT, ERR_NUMERIC, ERR_TEXT, ERR_USAGE, EngineError
from qedge.runtime.errors import BudgetError, ImageError, QedgeError

_MOST_BYTES = 1 << 26  # QE_VOCAB_TEXT_MAX


def text_failure(what: str, size: int, error: EngineError) -> QedgeError:
    """The error to raise for a text of `size` bytes that the engine does not encode."""
    if error.code == ERR_TEXT:
        return ImageError(f"{what} is not UTF-8; convert it first")
    if error.code == ERR_USAGE:
        return BudgetError(f"{what} has {size:,} bytes, of at most {_MOST_BYTES:,}; split it")
    return ImageError(f"{what}: {error}")


def printable(text: str, keep: str = "") -> str:
    """The text for a terminal, which obeys some characters: control characters, those that
    turn the direction of writing, other ends of a line and lone surrogates are shown as escapes
    like \\x1b. keep: of these the ones to leave, such as "\\n\\t"."""
    if text.isprintable():
        return text
    return "".join(one if one in keep or not _obeyed(one) else _escape(one) for one in text)


def _obeyed(one: str) -> bool:
    if " " <= one <= "~":
        return False
    from unicodedata import category

    kind = category(one)
    if kind == "Cf":  # joiners and soft hyphens belong to words and emoji
        return one not in "\u00ad\u200c\u200d\u2060\ufeff"
    return kind in ("Cc", "Cs", "Zl", "Zp")


def _escape(one: str) -> str:
    number = ord(one)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def engine_failure(path: str, error: EngineError) -> QedgeError:
    """The error to raise for tokens that the engine does not evaluate, or draw."""
    if error.code == ERR_NUMERIC:
        return ImageError(
            f"{path}: {error}; check the weights with `qedge inspect --verify {path}`"
        )
    if error.code == ERR_CONTEXT:
        return BudgetError(f"{path}: {error}; open with a longer context")
    return ImageError(f"{path}: {error}")


class StopText:
    """Turns token bytes into text: whole characters only, and nothing that may yet become the
    beginning of a stop string."""

    def __init__(self, stops: list[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        return self._release(self._decoder.decode(data), final=False)

    def finish(self) -> str:
        if self.stopped:
            return ""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, final: bool) -> str:
        self._held += text
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            out, self._held = self._held[: min(ends)], ""
            return out
        hold = 0
        if not final:
            for stop in self._stops:
                for size in range(min(len(stop) - 1, len(self._held)), hold, -1):
                    if self._held.endswith(stop[:size]):
                        hold = size
                        break
        cut = len(self._held) - hold
        out, self._held = self._held[:cut], self._held[cut:]
        return out
