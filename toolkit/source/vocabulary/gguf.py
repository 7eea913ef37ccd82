"""Reads the vocabulary of a GGUF file from its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.named import NO_IDS
from qedge.toolkit.source.vocabulary.value import (
    ADD_BOS_NAMES,
    BYTE,
    CONTROL,
    IGNORE_MERGES_NAMES,
    NORMAL,
    PRETOKENIZER_OF_NAME,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    mark_by_text,
    raw_bytes,
    refuse_duplicates,
)

PREFIX = "tokenizer.ggml."


def from_gguf(metadata: Mapping[str, object]) -> Vocabulary:
    """The vocabulary of a GGUF file, from its `tokenizer.ggml.*` keys (and `general.name`).

    Texts may be bytes or str, arrays anything that can be listed.  ImageError for what is
    missing, inconsistent or not known.
    """
    model = _text(metadata, "model")
    if model == "gpt2":
        return _bpe_from_gguf(metadata)
    if model == "llama":
        return _spm_from_gguf(metadata)
    found = f"is {model!r}" if model is not None else "is missing"
    raise ImageError(
        f"GGUF: {PREFIX}model {found}; known are 'gpt2' (byte-level BPE) and 'llama'"
        " (SentencePiece BPE)"
    )


def _bpe_from_gguf(metadata: Mapping[str, object]) -> Vocabulary:
    name = _text(metadata, "pre")
    if name not in PRETOKENIZER_OF_NAME:
        if name is None:
            raise ImageError(
                f"GGUF: {PREFIX}pre is missing; convert the model again with a current"
                " convert_hf_to_gguf.py"
            )
        raise ImageError(
            f"GGUF: {PREFIX}pre {name!r} is not supported; supported are"
            f" {', '.join(sorted(PRETOKENIZER_OF_NAME))}"
        )
    texts, types = _tokens(metadata)
    stops = mark_by_text(texts, types)
    merges = []
    for rank, line in enumerate(_texts(metadata, "merges")):
        cut = line.find(b" ", 1)
        pair = raw_bytes(line[:cut]), raw_bytes(line[cut + 1 :])
        if cut < 0 or not pair[0] or not pair[1]:
            raise ImageError(f"GGUF: {PREFIX}merges[{rank}] is {line[:40]!r}, not two symbols")
        merges.append((pair[0], pair[1]))
    return Vocabulary(
        kind="bpe",
        pretokenizer=PRETOKENIZER_OF_NAME[name],
        tokens=tuple(
            text if kind in (CONTROL, UNKNOWN, USER_DEFINED) else raw_bytes(text) or text
            for text, kind in zip(texts, types, strict=True)
        ),
        types=tuple(types),
        merges=tuple(merges),
        add_bos=_flag(metadata, "add_bos_token", name in ADD_BOS_NAMES),
        add_eos=_flag(metadata, "add_eos_token", False),
        ignore_merges=name in IGNORE_MERGES_NAMES,
        **_special_ids(metadata, len(texts), stops, {}),
        **_strips(metadata, texts, types),
    )


def _spm_from_gguf(metadata: Mapping[str, object]) -> Vocabulary:
    texts, types = _tokens(metadata)
    stops = mark_by_text(texts, types)
    scores = _numbers(metadata, "scores", len(texts), float)
    if len(scores) < len(texts):
        raise ImageError(
            f"GGUF: {PREFIX}scores has {len(scores)} entries for {len(texts)} tokens;"
            " convert the model again"
        )
    defaults = {"bos": 1, "eos": 2, "unknown": 0}
    return Vocabulary(
        kind="spm",
        pretokenizer="",
        tokens=tuple(texts),
        types=tuple(types),
        scores=tuple(scores[: len(texts)]),
        add_bos=_flag(metadata, "add_bos_token", True),
        add_eos=_flag(metadata, "add_eos_token", False),
        add_space_prefix=_flag(metadata, "add_space_prefix", True),
        **_special_ids(metadata, len(texts), stops, defaults),
        **_strips(metadata, texts, types),
    )


def _tokens(metadata: Mapping[str, object]) -> tuple[list[bytes], list[int]]:
    texts = _texts(metadata, "tokens")
    refuse_duplicates(texts, f"GGUF: {PREFIX}tokens")
    if metadata.get(PREFIX + "token_type") is None:
        return texts, [NORMAL] * len(texts)
    types = _numbers(metadata, "token_type", len(texts), int)
    if len(types) < len(texts):
        raise ImageError(
            f"GGUF: {PREFIX}token_type has {len(types)} entries for {len(texts)} tokens;"
            " convert the model again"
        )
    return texts, [kind if NORMAL <= kind <= BYTE else 0 for kind in types[: len(texts)]]


def _special_ids(
    metadata: Mapping[str, object], count: int, stops: set[int], defaults: dict[str, int]
) -> dict[str, Any]:
    """bos, eos, unknown and stops."""
    found: dict[str, int | None] = {}
    keys = {"bos": "bos", "eos": "eos", "unknown": "unknown", "eot": "eot", "eom": "eom"}
    keys |= {name: name for name in ("fim_pad", "fim_rep", "fim_sep")}
    for name, key in keys.items():
        value = metadata.get(f"{PREFIX}{key}_token_id")
        if value is None:
            default = defaults.get(name)
            found[name] = default if default is not None and default < count else None
            continue
        found[name] = _id(value, f"{PREFIX}{key}_token_id")
    named = {number for name, number in found.items() if name not in ("bos", "unknown")}
    return {
        "bos": found["bos"],
        "eos": found["eos"],
        "unknown": found["unknown"],
        "stops": tuple(sorted(stops | {number for number in named if number is not None})),
    }


def _id(value: object, key: str) -> int | None:
    """A token id, or None for a number that means none (-1, in 32 and 64 bits too)."""
    try:
        number = int(value)  # type: ignore[call-overload]
        if number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ImageError(f"GGUF: {key} is {str(value)[:40]!r}, not an id") from None
    return None if number in NO_IDS else number


def _strips(
    metadata: Mapping[str, object], texts: list[bytes], types: list[int]
) -> dict[str, Any]:
    """GGUF has no field for white space taken by special tokens: Phi-3 is known by its name."""
    name = metadata.get("general.name")
    name = name.decode(errors="replace") if isinstance(name, bytes) else name
    name = name if isinstance(name, str) else ""
    if not any(part in name.lower() for part in ("phi-3", "phi3")):
        return {}
    kept = (b"<unk>", b"<s>", b"<|endoftext|>")
    return {
        "strips_right": frozenset(
            number
            for number, (text, kind) in enumerate(zip(texts, types, strict=True))
            if (kind in (UNKNOWN, CONTROL, USER_DEFINED) and text not in kept)
        )
    }


def _text(metadata: Mapping[str, object], key: str) -> str | None:
    value = metadata.get(PREFIX + key)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is not None and not isinstance(value, str):
        raise ImageError(f"GGUF: {PREFIX}{key} is {value!r}, not a text")
    return value


def _list(metadata: Mapping[str, object], key: str) -> Sequence[object]:
    value = metadata.get(PREFIX + key)
    if value is None or isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        found = "is missing" if value is None else "is not an array"
        raise ImageError(f"GGUF: {PREFIX}{key} {found}; the file has no complete tokenizer")
    # numpy arrays become Python numbers
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _texts(metadata: Mapping[str, object], key: str) -> list[bytes]:
    texts = []
    for number, text in enumerate(_list(metadata, key)):
        if isinstance(text, str):
            text = text.encode(errors="surrogateescape")
        if not isinstance(text, bytes):
            raise ImageError(f"GGUF: {PREFIX}{key}[{number}] is {text!r}, not a text")
        texts.append(text)
    return texts


def _numbers(metadata: Mapping[str, object], key: str, count: int, kind: type) -> list[Any]:
    try:
        return [kind(value) for value in _list(metadata, key)[:count]]
    except (TypeError, ValueError, OverflowError):
        raise ImageError(f"GGUF: {PREFIX}{key} has an entry that is no number") from None


def _flag(metadata: Mapping[str, object], key: str, default: bool) -> bool:
    value = metadata.get(PREFIX + key, default)
    if type(value) not in (bool, int) or value not in (False, True):
        raise ImageError(f"GGUF: {PREFIX}{key} is {value!r:.60}, not true or false")
    return bool(value)
