"""The rules by which a folder's tokenizer encodes, as a plain value, and their block of the
tokenizer section: SPEC-vocab.md, section 5.

It knows no file format: hf.py and spm.py read those.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary import forms

SPACE_MARK = "\u2581".encode()

FUSE_UNKNOWN, PREFIX_FIRST, PREFIX_ALWAYS, MARKS = 1, 2, 4, 8
LEFT, RIGHT = 1, 2  # of a strip
ORDER, COMPOSE = 1, 2  # of a step on characters
PREFIX, SQUEEZE, PREFIX_ONCE = 1, 2, 4  # of SentencePiece's normalizer
STRIP_LEFT, STRIP_RIGHT, SINGLE_WORD, SPECIAL = 8, 16, 32, 64  # of a special token
WORDS = 16
STEP_WORDS = 6
STEPS_LIMIT = 64
GROWTH_LIMIT = 1 << 16
TEXT_LIMIT = 1 << 24


@dataclass(frozen=True, slots=True)
class Prepend:
    """A text before every piece that is not empty."""

    text: bytes


@dataclass(frozen=True, slots=True)
class Replace:
    """Every occurrence of a text by another."""

    pattern: bytes
    content: bytes


@dataclass(frozen=True, slots=True)
class Strip:
    """White space at the ends of a piece."""

    left: bool
    right: bool


@dataclass(frozen=True, slots=True)
class Form:
    """One of forms.FORMS."""

    name: str


@dataclass(frozen=True, slots=True)
class SentencePiece:
    """The normalizer of a tokenizer.model: a map of characters, then what is done to spaces."""

    flags: int  # PREFIX, SQUEEZE, PREFIX_ONCE
    trie: bytes = b""  # a double array of little-endian words
    texts: bytes = b""  # what its values point at; each ends with a zero


Step = Prepend | Replace | Strip | Form | SentencePiece


@dataclass(frozen=True, slots=True)
class Special:
    """A token that is taken out of the text before words are."""

    text: bytes
    id: int
    flags: int  # STRIP_LEFT, STRIP_RIGHT, SINGLE_WORD, SPECIAL


@dataclass(frozen=True, slots=True)
class Rules:
    """Special tokens of the text as it is, the normalizer, and those of what it gives."""

    raw: tuple[Special, ...] = ()
    steps: tuple[Step, ...] = ()
    normal: tuple[Special, ...] = ()  # their texts are normalized already
    traits: int = 0  # FUSE_UNKNOWN, PREFIX_FIRST, PREFIX_ALWAYS, MARKS


def normalized(steps: Iterable[Step], text: str) -> str:
    """What a normalizer makes of a text; not SentencePiece's."""
    for step in steps:
        if isinstance(step, Prepend):
            text = step.text.decode() + text if text else text
        elif isinstance(step, Replace):
            text = text.replace(step.pattern.decode(), step.content.decode())
        elif isinstance(step, Strip):
            text = text.lstrip(_SPACES) if step.left else text
            text = text.rstrip(_SPACES) if step.right else text
        elif isinstance(step, Form):
            text = forms.normalize(step.name, text)
    return text


# White_Space: str.strip takes U+001C to U+001F for it too.
_SPACES = "\t\n\v\f\r \x85\xa0\u1680" + "".join(chr(0x2000 + at) for at in range(11))
_SPACES += "\u2028\u2029\u202f\u205f\u3000"


class Block:
    """The words of the rules block and the arrays behind it; texts go to the strings."""

    def __init__(self, strings: bytearray, known: dict[bytes, int], start: int) -> None:
        self.strings = strings
        self.known = known  # where in them a text is
        self.start = start  # where the block lies in its section
        self.arrays: list[bytes] = []
        self.size = WORDS * 4

    def place(self, data: bytes) -> int:
        """The offset of an array in the section."""
        offset = self.start + self.size
        self.arrays.append(data + bytes(-len(data) % 4))
        self.size += len(self.arrays[-1])
        return offset

    def text(self, data: bytes) -> tuple[int, int]:
        """A text among the strings: offset and bytes."""
        if data not in self.known:
            self.known[data] = len(self.strings)
            self.strings += data
        return self.known[data], len(data)


def block(rules: Rules, strings: bytearray, known: dict[bytes, int], start: int) -> bytes:
    """The block's bytes, for a section in which it lies at `start`. Texts that are not `known`
    to be among the strings are appended. ImageError for what the engine has no room for."""
    out = Block(strings, known, start)
    pool: list[int] = []
    steps: list[int] = []
    growth, growth_bytes = 1, 0
    if len(rules.steps) > STEPS_LIMIT:
        raise ImageError(f"the normalizer has {len(rules.steps)} steps, {STEPS_LIMIT} at most")
    for step in rules.steps:
        words, times, more = _step(step, out, pool)
        steps += words
        growth, growth_bytes = growth * times, growth_bytes * times + more
    if growth > GROWTH_LIMIT or growth_bytes > TEXT_LIMIT:
        raise ImageError(f"the normalizer makes a text up to {growth} times as long; too many")
    needs_forms = any(isinstance(step, Form) for step in rules.steps)
    composes = any(isinstance(step, Form) and "C" in step.name for step in rules.steps)
    classes = forms.classes() if needs_forms else {}
    pairs = forms.pairs() if composes else {}
    arrays = [
        (steps, STEP_WORDS),
        (_table(rules.raw, out), 4),
        (_table(rules.normal, out), 4),
        ([ord(letter) << 8 | number for letter, number in classes.items()], 1),
        ([ord(part) for key, made in pairs.items() for part in (*key, made)], 3),
        (pool, 1),
    ]
    words = [rules.traits]
    for values, words_each in arrays:
        words += [len(values) // words_each, out.place(_words(values))]
    words += [growth, growth_bytes]
    words += [0] * (WORDS - len(words))
    return b"".join([_words(words), *out.arrays])


def _words(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


def _step(step: Step, out: Block, pool: list[int]) -> tuple[list[int], int, int]:
    """A step's six words, and how much longer it may make a text: times, and bytes more."""
    if isinstance(step, Prepend):
        return [1, 0, *out.text(step.text), 0, 0], 1, len(step.text)
    if isinstance(step, Replace):
        times = max(1, -(-len(step.content) // len(step.pattern)))
        return [2, 0, *out.text(step.pattern), *out.text(step.content)], times, 0
    if isinstance(step, Strip):
        return [3, LEFT * step.left | RIGHT * step.right, 0, 0, 0, 0], 1, 0
    if isinstance(step, Form):
        return _form_step(step.name, out, pool)
    longest = max((len(text) for text in step.texts.split(b"\0")), default=0)
    texts = [*out.text(step.trie), *out.text(step.texts)]
    return [5, step.flags, *texts], max(3, 3 * longest), len(SPACE_MARK)


def _form_step(form: str, out: Block, pool: list[int]) -> tuple[list[int], int, int]:
    table = forms.mapping(form)
    entries: list[int] = []
    for letter, text in table.items():
        entries.append(ord(letter) << 5 | len(text))
        if len(text) == 1:
            entries.append(ord(text))
        else:
            entries.append(len(pool))
            pool += map(ord, text)
    times = max(
        -(-len(text.encode()) // len(letter.encode())) for letter, text in table.items()
    )
    argument = ORDER | (COMPOSE if form.endswith("C") else 0)
    # below it no character changes, nor is there one that may be composed with what is before
    least = ord("\u0300") if form == "NFC" else min(map(ord, table))
    return [4, argument, out.place(_words(entries)), len(table), least, 0], max(3, times), 0


def _table(specials: Iterable[Special], out: Block) -> list[int]:
    """Entries sorted by their texts, with the longest other one that each begins with."""
    words: list[int] = []
    nested: list[tuple[int, bytes]] = []  # entries that the next one may begin with
    for number, special in enumerate(sorted(specials, key=lambda special: special.text)):
        if len(special.text) >= TEXT_LIMIT:
            raise ImageError(f"token {special.id} has {len(special.text)} bytes; too many")
        while nested and not special.text.startswith(nested[-1][1]):
            nested.pop()
        offset, size = out.text(special.text)
        shorter = nested[-1][0] + 1 if nested else 0
        words += [offset, size | special.flags << 24, special.id, shorter]
        nested.append((number, special.text))
    return words
