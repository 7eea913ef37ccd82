"""Token ids that a folder's files name: by a text, by a number, or in a template; and the
checks of JSON values that they share with its tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.shape import shown

ID_LIMIT = 1 << 24
# Ids that mean "none": -1, and what it is in 32 and 64 bits.
NO_IDS = (-1, (1 << 32) - 1, (1 << 64) - 1)
Ends = tuple[int | None, int | None]


def as_dict(value: object, path: Path, what: str) -> dict[str, Any]:
    """A JSON object, or ImageError."""
    if not isinstance(value, dict):
        raise ImageError(f"{path}: {what} is not a JSON object; the file is damaged")
    return value


def as_list(value: object, path: Path, what: str) -> list[Any]:
    """A JSON array, null for an empty one, or ImageError."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"{path}: {what} is not a JSON array; the file is damaged")
    return value


def is_id(value: object) -> bool:
    """Whether it can be a token id."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < ID_LIMIT


def named_id(
    value: object, number_of: Mapping[bytes, int], path: Path, what: str
) -> int | None:
    """The id of a token given by its text, or by an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    found = text.encode(errors="replace") if isinstance(text, str) else b""
    number = number_of.get(found) if isinstance(text, str) else None
    if number is None:
        raise ImageError(f"{path}: {what} {shown(value)} is not in the vocabulary")
    return number


def read_ids(value: object, count: int, path: Path) -> list[int]:
    """The ids of a configuration's entry: one or a list; NO_IDS and null are none."""
    values: list[Any] = value if isinstance(value, list) else [value]
    values = [
        number
        for number in values
        if number is not None and (isinstance(number, bool) or number not in NO_IDS)
    ]
    for number in values:
        if not is_id(number) or number >= count:
            raise ImageError(
                f"{path.parent}: a configuration has token id {number!r}, but there are"
                f" {count} tokens; its files belong to different models"
            )
    return values


def template_ends(processor: Any, number_of: Mapping[bytes, int], path: Path) -> Ends:
    """What a post-processor writes around a text: a token before it and one after it, or None.
    ImageError for one that does more."""
    found: Ends = None, None
    steps: list[Any] = [processor]
    if isinstance(processor, dict) and processor.get("type") == "Sequence":
        steps = as_list(processor.get("processors"), path, "post_processor.processors")
    for step in steps:
        kind = step.get("type") if isinstance(step, dict) else None
        if step is None or kind == "ByteLevel":
            continue
        around = _around(step) if kind == "TemplateProcessing" else None
        if around is None or found != (None, None):
            raise ImageError(
                f"{path}: post_processor {shown(step)} is not supported; supported is a"
                " template of one token before the text and one after it, at most"
            )
        found = (
            named_id(around[0], number_of, path, "post_processor"),
            named_id(around[1], number_of, path, "post_processor"),
        )
    return found


def _around(step: dict[str, Any]) -> tuple[str | None, str | None] | None:
    """The tokens before and after the text of a template; None when it is more than that."""
    single = step.get("single")
    if not isinstance(single, list) or not all(isinstance(part, dict) for part in single):
        return None
    texts: list[Any] = []
    for part in single:
        inner = part.get("SpecialToken", part.get("Sequence"))
        if not isinstance(inner, dict) or not isinstance(inner.get("id"), str):
            return None
        texts.append(inner["id"] if "SpecialToken" in part else None)
    at = texts.index(None) if texts.count(None) == 1 else -1
    if at not in (0, 1) or len(texts) - at > 2:
        return None
    return texts[0] if at else None, texts[-1] if len(texts) - at == 2 else None


def named_ids(
    files: Mapping[str, Mapping[str, Any]],
    ends: Ends,
    stops: set[int],
    number_of: Mapping[bytes, int],
    path: Path,
) -> dict[str, Any]:
    """bos, eos, stops, add_bos and add_eos, by the folder's files and its template."""
    config, count = files["tokenizer_config"], len(number_of)
    eos = named_id(config.get("eos_token"), number_of, path, "eos_token")
    for name in ("generation_config", "config"):
        ids = read_ids(files[name].get("eos_token_id"), count, path)
        stops |= set(ids)
        eos = ids[0] if eos is None and ids else eos
    bos = named_id(config.get("bos_token"), number_of, path, "bos_token")
    bos = ends[0] if ends[0] is not None else bos
    if bos is None:
        bos = next(iter(read_ids(files["config"].get("bos_token_id"), count, path)), None)
    if ends[1] is not None:
        stops |= set() if eos is None else {eos}
        eos = ends[1]
    add_bos, add_eos = config.get("add_bos_token"), config.get("add_eos_token")
    return {
        "bos": bos,
        "eos": eos,
        "stops": tuple(sorted(stops | ({eos} if eos is not None else set()))),
        "add_bos": ends[0] is not None if add_bos is None else bool(add_bos),
        "add_eos": ends[1] is not None if add_eos is None else bool(add_eos),
    }
