"""Reads SentencePiece's tokenizer.model: a protobuf message (sentencepiece_model.proto) with
the pieces, their scores and the normalizer. The ids are those that SentencePiece gives.

Only BPE models are known; a unigram model wants another algorithm, and is refused by name.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.named import named_ids
from qedge.toolkit.source.vocabulary.rules import (
    FUSE_UNKNOWN,
    PREFIX,
    PREFIX_ONCE,
    SPECIAL,
    SQUEEZE,
    Rules,
    SentencePiece,
    Special,
)
from qedge.toolkit.source.vocabulary.value import (
    BYTE,
    BYTE_NAMES,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    mark_by_text,
    refuse_duplicates,
)

# Fields of ModelProto, SentencePiece, TrainerSpec and NormalizerSpec, by their numbers.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_PIECE, _SCORE, _TYPE = 1, 2, 3
_MODEL_TYPE, _SUFFIX, _BYTE_FALLBACK = 3, 24, 35
_UNKNOWN_ID, _BOS_ID, _EOS_ID = 40, 41, 42
_RULE_NAME, _CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA, _ESCAPE = 1, 2, 3, 4, 5
_TYPES = {1: NORMAL, 2: UNKNOWN, 3: CONTROL, 4: USER_DEFINED, 5: UNUSED, 6: BYTE}
_MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
_BPE = 2
PIECES_LIMIT = 1 << 22


class _Damaged(ValueError):
    """The bytes are no message."""


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value & ((1 << 64) - 1), at
    raise _Damaged


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """(field number, value): a number, or the bytes of a text, a message or a float."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {1: 8, 5: 4}.get(wire, -1)
        if wire == 2:
            size, at = _varint(data, at)
        if size < 0 or size > len(data) - at:
            raise _Damaged
        yield key >> 3, data[at : at + size]
        at += size


def _message(fields: Mapping[int, int | memoryview], number: int) -> dict[int, Any]:
    value = fields.get(number, memoryview(b""))
    if isinstance(value, int):
        raise _Damaged
    return dict(_fields(value))


def _signed(value: int) -> int:
    value &= (1 << 32) - 1
    return value - (1 << 32) if value >> 31 else value


def _piece(data: int | memoryview) -> tuple[bytes, float, int]:
    """A piece's text, score and type."""
    if isinstance(data, int):
        raise _Damaged
    fields = dict(_fields(data))
    text, score, kind = (
        fields.get(_PIECE, memoryview(b"")),
        fields.get(_SCORE, memoryview(bytes(4))),
        fields.get(_TYPE, 1),
    )
    if isinstance(text, int) or isinstance(score, int) or len(score) != 4 or kind not in _TYPES:
        raise _Damaged
    return bytes(text), struct.unpack("<f", score)[0], _TYPES[int(kind)]


def from_spm(path: Path, files: Mapping[str, Mapping[str, Any]]) -> Vocabulary:
    """The vocabulary of a tokenizer.model; `files` are the folder's tokenizer_config, config
    and generation_config, empty where there is none. ImageError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; make it readable") from None
    if data.startswith(b"version https://git-lfs"):
        raise ImageError(f"{path}: is a Git LFS pointer; run git lfs pull")
    try:
        return _read(memoryview(data), path, files)
    except (_Damaged, struct.error):
        raise ImageError(
            f"{path}: is not a SentencePiece model, or damaged; download it again"
        ) from None


def _read(data: memoryview, path: Path, files: Mapping[str, Mapping[str, Any]]) -> Vocabulary:
    pieces: list[tuple[bytes, float, int]] = []
    parts: dict[int, int | memoryview] = {}
    for number, value in _fields(data):
        if number == _PIECES:
            pieces.append(_piece(value))
        else:
            parts[number] = value
        if len(pieces) > PIECES_LIMIT:
            raise _Damaged
    trainer, normalizer = _message(parts, _TRAINER), _message(parts, _NORMALIZER)
    kind = trainer.get(_MODEL_TYPE, 1)
    if kind != _BPE:
        raise ImageError(
            f"{path}: is a {_MODEL_TYPES.get(kind, 'strange')} model; supported is BPE"
        )
    if trainer.get(_SUFFIX) or normalizer.get(_ESCAPE, 1) != 1:
        raise ImageError(f"{path}: writes spaces behind words, or not as U+2581; not supported")
    if any(kind == UNUSED for _, _, kind in pieces):
        raise ImageError(f"{path}: has unused pieces; its ids would not be equal")
    scores = [score for _, score, _ in pieces]
    texts, types = _with_added(
        [text for text, _, _ in pieces], [k for _, _, k in pieces], files, path
    )
    scores += [0.0] * (len(texts) - len(scores))
    config_size = files["config"].get("vocab_size")
    refuse_duplicates([text for text in texts if text], str(path))
    count = len(texts)
    if isinstance(config_size, int) and count < config_size <= 2 * count + 65536:
        texts += [b"[PAD%d]" % at for at in range(count, config_size)]
        types += [UNUSED] * (config_size - count)
        scores += [0.0] * (config_size - count)
    rules = _rules(texts, types, normalizer, files, path)
    unknown = _id(trainer, _UNKNOWN_ID, 0, texts)
    # what merging never makes: only normal pieces are found by their text
    scores = [
        score if kind in (NORMAL, USER_DEFINED) else -math.inf
        for score, kind in zip(scores, types, strict=True)
    ]
    if not trainer.get(_BYTE_FALLBACK):
        types = [NORMAL if kind == BYTE else kind for kind in types]
    elif not set(BYTE_NAMES) <= set(texts):
        raise ImageError(f"{path}: falls back to bytes, but has no piece for every byte")
    return Vocabulary(
        kind="spm",
        pretokenizer="",
        tokens=tuple(texts),
        scores=tuple(scores),
        unknown=unknown,
        rules=rules,
        **_ids(texts, types, trainer, files, path),
    )


def _id(trainer: Mapping[int, Any], field: int, default: int, texts: list[bytes]) -> int | None:
    number = _signed(int(trainer.get(field, default)))
    return number if 0 <= number < len(texts) else None


def _with_added(
    texts: list[bytes],
    types: list[int],
    files: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> tuple[list[bytes], list[int]]:
    """The pieces and, behind them, the tokens that tokenizer_config.json adds."""
    texts, types = list(texts), list(types)
    number_of = {text: number for number, text in enumerate(texts)}
    added = files["tokenizer_config"].get("added_tokens_decoder")
    tokens = [
        (int(number), token)
        for number, token in (added.items() if isinstance(added, dict) else ())
        if number.isdecimal() and isinstance(token, dict)
    ]
    for number, token in sorted(tokens, key=lambda item: item[0]):
        text = str(token.get("content")).encode(errors="replace")
        kind = CONTROL if token.get("special") else USER_DEFINED
        if number_of.get(text, number) != number or number > len(texts):
            raise ImageError(
                f"{path}: added token {text[:40].decode(errors='replace')!r} has id {number},"
                f" but {number_of.get(text, len(texts))} is the one that is next"
            )
        if number == len(texts):
            texts.append(text)
            types.append(kind)
            number_of[text] = number
        elif types[number] == NORMAL:
            types[number] = kind
    return texts, types


def _rules(
    texts: list[bytes],
    types: list[int],
    normalizer: Mapping[int, Any],
    files: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> Rules:
    charsmap = bytes(normalizer.get(_CHARSMAP, b""))
    trie, strings = b"", b""
    if charsmap:
        size = struct.unpack_from("<I", charsmap)[0]
        if size % 4 or size > len(charsmap) - 4:
            raise _Damaged
        trie, strings = charsmap[4 : 4 + size], charsmap[4 + size :]
    flags = PREFIX if normalizer.get(_DUMMY_PREFIX, 1) else 0
    flags |= SQUEEZE if normalizer.get(_REMOVE_EXTRA, 1) else 0
    # only what says so prefixes the text alone, and not every piece between control tokens
    flags |= PREFIX_ONCE if files["tokenizer_config"].get("legacy") is False else 0
    numbered = list(enumerate(zip(texts, types, strict=True)))
    return Rules(
        raw=tuple(
            Special(text, number, SPECIAL)
            for number, (text, kind) in numbered
            if text and kind in (CONTROL, UNKNOWN)
        ),
        steps=(SentencePiece(flags, trie, strings),),
        normal=tuple(
            Special(text, number, 0)
            for number, (text, kind) in numbered
            if text and kind == USER_DEFINED
        ),
        traits=FUSE_UNKNOWN,
    )


def _ids(
    texts: list[bytes],
    types: list[int],
    trainer: Mapping[int, Any],
    files: Mapping[str, Mapping[str, Any]],
    path: Path,
) -> dict[str, Any]:
    """bos, eos, stops, add_bos, add_eos and the types that names give."""
    types = list(types)
    stops = mark_by_text(texts, types)
    found = named_ids(
        files, (None, None), stops, {text: at for at, text in enumerate(texts)}, path
    )
    config = files["tokenizer_config"]
    for name, field, default in (("bos", _BOS_ID, 1), ("eos", _EOS_ID, 2)):
        if found[name] is None:
            found[name] = _id(trainer, field, default, texts)
    if found["eos"] is not None:
        found["stops"] = tuple(sorted({*found["stops"], found["eos"]}))
    # SentencePiece adds none; transformers' Llama class adds BOS unless told not to
    found["add_bos"] = bool(config.get("add_bos_token", True)) and found["bos"] is not None
    return found | {"types": tuple(types)}
