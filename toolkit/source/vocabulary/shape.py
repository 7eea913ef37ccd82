"""What a tokenizer.json's normalizer and pre-tokenizer do, in the terms of rules.py.

They are programs in JSON; those whose ids the engine gives exactly are known, and any other is
refused by name.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.forms import FORMS
from qedge.toolkit.source.vocabulary.rules import (
    MARKS,
    PREFIX_ALWAYS,
    PREFIX_FIRST,
    SPACE_MARK,
    Form,
    Prepend,
    Replace,
    Step,
    Strip,
)
from qedge.toolkit.source.vocabulary.value import MARK_WORDS

_MARK = SPACE_MARK.decode()
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_NOT_LETTER = "[^\\r\\n\\p{L}\\p{N}]?"
_SPACES = "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" + _SPACES
_SLASH_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" + _SPACES
_GPT2 = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
_FIRST, _SECOND = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"


def _cased(ending: str) -> str:
    first_many = _NOT_LETTER + _FIRST + "*" + _SECOND + "+" + ending
    return first_many + "|" + _NOT_LETTER + _FIRST + "+" + _SECOND + "*" + ending


# A pre-tokenizer as the steps of its sequence, by `_step`.
_SHAPES = {
    ("bytes+words",): "gpt-2",
    (_GPT2, "bytes"): "gpt-2",
    ("bytes",): "",
    ("digits", "bytes+words"): "smollm",
    ("\\p{N}", "bytes+words"): "smollm",
    (_CONTRACTIONS + "|" + _NOT_LETTER + "\\p{L}+|\\p{N}{1,3}" + _REST, "bytes"): "llama3",
    (_CONTRACTIONS + "|" + _NOT_LETTER + "\\p{L}+|\\p{N}" + _REST, "bytes"): "qwen2",
    (_cased("") + "|\\p{N}" + _SLASH_REST, "bytes"): "tekken",
    (_cased(_CONTRACTIONS + "?") + "|\\p{N}{1,3}" + _SLASH_REST, "bytes"): "gpt-4o",
    (
        "[\\r\\n]",
        "\\s?\\p{L}+",
        "\\s?\\p{P}+",
        "[一-龥ࠀ-一가-퟿]+",
        "digits",
        "bytes",
    ): "deepseek-coder",
}
# Other spellings of the same expressions: no letter is what the optional character before it
# may be, white space up to its last newline is the same with one newline or more, and behind
# that white space at the end is what `\s+(?!\S)` takes. Before it, it would take newlines, too.
_SPELLINGS = (
    ("'(?i:[sdmt]|ll|ve|re)|", _CONTRACTIONS + "|"),  # an alternative: no `?` belongs to it
    ("[^\\r\\n\\p{L}\\p{N}]?+", _NOT_LETTER),
    ("[^\\s\\p{L}\\p{N}]++", "[^\\s\\p{L}\\p{N}]+"),
    ("\\p{N}{1,3}+", "\\p{N}{1,3}"),
    ("|\\s*[\\r\\n]|", "|\\s*[\\r\\n]+|"),
    ("|\\s*[\\r\\n]+|\\s++$|", "|\\s*[\\r\\n]+|"),
    ("\r", "\\r"),
    ("\n", "\\n"),
)


def shown(value: object) -> str:
    """A part of a file for a message, cut to what can be read."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."


def _parts(value: Any, name: str, path: Path, what: str) -> list[Any]:
    """The steps of a sequence, or the one step; sequences in it are opened."""
    if value is None:
        return []
    if not isinstance(value, dict):
        raise ImageError(f"{path}: {what} {shown(value)} is not a JSON object; it is damaged")
    if value.get("type") != "Sequence":
        return [value]
    inner = value.get(name)
    if not isinstance(inner, list):
        raise ImageError(f"{path}: {what}.{name} is not a JSON array; the file is damaged")
    found: list[Any] = []
    for part in inner:
        # one level is all that files have, and it keeps a hostile one shallow
        if isinstance(part, dict) and part.get("type") == "Sequence":
            raise ImageError(f"{path}: {what} has a sequence in a sequence; write it as one")
        found += _parts(part, name, path, what)
    return found


def read_normalizer(value: Any, path: Path) -> tuple[Step, ...]:
    """The steps of a normalizer. ImageError for one that is not known."""
    found: list[Step] = []
    for part in _parts(value, "normalizers", path, "normalizer"):
        step = _normalizer_step(part)
        if step is None:
            raise ImageError(
                f"{path}: normalizer {shown(part)} is not supported; supported are"
                f" {', '.join(FORMS)}, Prepend, Strip and Replace of a text by another"
            )
        found.append(step)
    return tuple(found)


def _normalizer_step(part: dict[str, Any]) -> Step | None:
    kind = part.get("type")
    if kind in FORMS:
        return Form(str(kind))
    if kind == "Prepend" and isinstance(part.get("prepend"), str):
        return Prepend(_encoded(part["prepend"]))
    if kind == "Strip":
        sides = part.get("strip_left"), part.get("strip_right")
        if all(isinstance(side, bool) for side in sides):
            return Strip(*map(bool, sides))
    if kind == "Replace" and isinstance(part.get("content"), str):
        pattern = _literal(part.get("pattern"))
        if pattern:
            return Replace(_encoded(pattern), _encoded(part["content"]))
    return None


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _literal(pattern: object) -> str | None:
    """The text that a pattern stands for; None for an expression that is more than one."""
    if not isinstance(pattern, dict):
        return None
    text = pattern.get("String")
    if isinstance(text, str):
        return text
    regex = pattern.get("Regex")
    if isinstance(regex, str) and re.fullmatch(r"[^\\^$.|?*+()\[\]{}]+", regex):
        return regex
    return None


def _step(step: Any) -> str:
    """One step of a pre-tokenizer by name; a Split is its expression."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "ByteLevel":
        return "bytes+words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    if kind == "Split":
        pattern = step.get("pattern")
        regex = pattern.get("Regex") if isinstance(pattern, dict) else None
        if isinstance(regex, str):
            for other, usual in _SPELLINGS:
                regex = regex.replace(other, usual)
            # without a gap between matches it is the same to drop what lies in the gaps
            drops = step.get("behavior") == "Removed" and step.get("invert")
            keeps = step.get("behavior") == "Isolated" and not step.get("invert")
            if keeps or (drops and regex.endswith("|\\s+")):
                return regex
    return "unknown"


def is_of_bytes(value: Any, path: Path) -> bool:
    """Whether a pre-tokenizer writes bytes as letters."""
    steps = _parts(value, "pretokenizers", path, "pre_tokenizer")
    return any(isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps)


def read_bytes_words(value: Any, path: Path) -> tuple[str, int]:
    """A pre-tokenizer of byte-level BPE: its name and traits. ImageError."""
    steps = _parts(value, "pretokenizers", path, "pre_tokenizer")
    prefixed = [
        step for step in steps if isinstance(step, dict) and step.get("add_prefix_space")
    ]
    name = _SHAPES.get(tuple(map(_step, steps)))
    if name is None or (prefixed and len(steps) > 1):
        known = ", ".join(sorted(filter(None, set(_SHAPES.values()))))
        raise ImageError(
            f"{path}: pre_tokenizer {shown(value)} is not supported: its ids would not be"
            f" equal. Supported are those of {known}, and Metaspace"
        )
    return name, PREFIX_ALWAYS if prefixed else 0


def read_characters_words(
    value: Any, steps: tuple[Step, ...], path: Path
) -> tuple[str, int, tuple[Step, ...]]:
    """A pre-tokenizer of a BPE on characters: its name, its traits and the normalizer, of which
    a part may be done as a trait. ImageError for one that is not supported."""
    parts = _parts(value, "pretokenizers", path, "pre_tokenizer")
    marks = Replace(b" ", SPACE_MARK)
    if len(parts) == 1 and steps and steps[-1] == marks and _splits_at_spaces(parts[0]):
        parts = []  # there are none
    if not parts and marks in steps:
        return "", 0, steps
    if len(parts) == 1 and parts[0].get("type") == "Metaspace":
        part = parts[0]
        scheme = part.get("prepend_scheme", "always")
        split = part.get("split", True)
        if part.get("add_prefix_space") is False:  # an older spelling
            scheme = "never" if "prepend_scheme" not in part else scheme
        traits = {"never": 0, "first": PREFIX_FIRST, "always": PREFIX_ALWAYS}.get(
            scheme if isinstance(scheme, str) else ""
        )
        empties = any(isinstance(step, Replace) and not step.content for step in steps)
        if (
            part.get("replacement", _MARK) == _MARK
            and traits is not None
            and isinstance(split, bool)
            and not (traits == PREFIX_FIRST and empties)  # is what is left the first?
        ):
            return MARK_WORDS if split else "", MARKS | traits, steps
    raise ImageError(
        f"{path}: pre_tokenizer {shown(value)} with normalizer"
        f" {shown([str(type(step).__name__) for step in steps])} is not supported: its ids"
        " would not be equal. Supported are ByteLevel, Metaspace, and spaces replaced by U+2581"
    )


def _splits_at_spaces(part: dict[str, Any]) -> bool:
    if part.get("type") != "Split" or part.get("pattern") != {"String": " "}:
        return False
    return not (part.get("behavior") == "Removed" and part.get("invert"))  # that drops the rest
