"""Packs a Vocabulary into the tokenizer section of an image: SPEC-vocab.md has every byte.

The section is read by the C engine alone; nothing here reads one.
"""

from __future__ import annotations

import struct
from itertools import accumulate

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.rules import SPECIAL, Rules, Special, block
from qedge.toolkit.source.vocabulary.value import (
    BYTE_NAMES,
    CONTROL,
    MARK_WORDS,
    PRETOKENIZERS,
    UNKNOWN,
    USER_DEFINED,
    Vocabulary,
    raw_bytes,
)

MAGIC = b"VOBV"
VERSION = 1
HEADER_WORDS = 32
NONE = 0xFFFFFFFF
KINDS = {"bpe": 1, "spm": 2, "characters": 3}
PRETOKENIZER_NUMBERS = {name: at for at, name in enumerate(("", *PRETOKENIZERS, MARK_WORDS))}
FOLDER, SORTED = 16, 32
FEW_SPECIALS = 32  # more are found in a sorted table
STRIP_LEFT, STRIP_RIGHT = 8, 16
SPECIAL_TYPES = (UNKNOWN, CONTROL, USER_DEFINED)
COUNT_LIMIT = 1 << 24
PROBE_LIMIT = 64
LEAST_SLOTS_PER_KEY = 1.4


def pack(vocabulary: Vocabulary) -> bytes:
    """The section's bytes; the same vocabulary gives the same bytes everywhere."""
    if vocabulary.kind not in KINDS or vocabulary.pretokenizer not in PRETOKENIZER_NUMBERS:
        raise ImageError(
            f"a tokenizer of kind {vocabulary.kind!r} with pre-tokenizer"
            f" {vocabulary.pretokenizer!r} is not known; known are {', '.join(PRETOKENIZERS)}"
        )
    is_spm = vocabulary.kind == "spm"
    rules, is_folder = vocabulary.rules, vocabulary.rules is not None
    keys = _keys(vocabulary)
    symbols, numbers = _symbols(vocabulary, keys)
    if len(symbols) > COUNT_LIMIT or len(vocabulary.merges) > COUNT_LIMIT:
        raise ImageError(f"the tokenizer has more than {COUNT_LIMIT} symbols or merges")
    # the engine compares with the stored bytes
    indexed = {key: at for key, at in keys.items() if vocabulary.tokens[at] == key}
    if not is_spm and not vocabulary.ignore_merges:
        indexed = (
            {key: at for key, at in indexed.items() if len(key.decode(errors="replace")) == 1}
            if vocabulary.kind == "characters"
            else {}
        )
    index, probes = _index(indexed)
    merge_starts, merges = ([], []) if is_spm else _merges(vocabulary, len(symbols), numbers)
    specials = sorted(
        (
            at
            for at, kind in enumerate(vocabulary.types)
            if kind in SPECIAL_TYPES and not is_folder
        ),
        key=lambda at: (-len(vocabulary.tokens[at]), at),
    )
    if len(specials) > FEW_SPECIALS:
        rules, specials = _sorted_specials(vocabulary, specials), []
    starts = [0, *accumulate(len(symbol) for symbol in symbols)]
    strings = bytearray().join(symbols)
    known = dict(zip(reversed(symbols), reversed(starts[:-1]))) if rules else {}
    arrays = [
        _words(starts),
        _attributes(vocabulary),
        _words(_byte_tokens(vocabulary, numbers)),
        _words(specials),
        _words(list(vocabulary.stops)),
        _words(_priorities(vocabulary) if is_spm else []),
        _words(index),
        _words(merge_starts),
        _words(merges),
    ]
    offsets, size = [], HEADER_WORDS * 4
    for array in arrays:
        offsets.append(size)
        size += len(array) + -len(array) % 4
    if rules:  # before the strings, of which it makes more
        offsets.append(size)
        arrays.append(block(rules, strings, known, size))
        size += len(arrays[-1])
    arrays.append(bytes(strings))
    offsets.insert(10 - 1, size)  # the rules' offset is last
    size += len(strings) + -len(strings) % 4
    if size > NONE:
        raise ImageError("the tokenizer's section does not fit in 4 GiB")
    header = [
        int.from_bytes(MAGIC, "little"),
        VERSION,
        HEADER_WORDS * 4,
        size,
        KINDS[vocabulary.kind],
        PRETOKENIZER_NUMBERS[vocabulary.pretokenizer],
        _flags(vocabulary) | (FOLDER if is_folder else SORTED if rules else 0),
        len(vocabulary.tokens),
        len(symbols),
        len(merges) // 3,
        len(specials),
        len(vocabulary.stops),
        len(index),
        probes,
        max((len(key) for key in indexed), default=0),
        max(len(token) for token in vocabulary.tokens),
        *(NONE if at is None else at for at in (vocabulary.bos, vocabulary.eos)),
        NONE if vocabulary.unknown is None else vocabulary.unknown,
        len(arrays[-1]),
        *offsets,
    ]
    header += [0] * (HEADER_WORDS - len(header))
    return b"".join([_words(header), *(array + bytes(-len(array) % 4) for array in arrays)])


def _sorted_specials(vocabulary: Vocabulary, specials: list[int]) -> Rules:
    def flags(at: int) -> int:
        found = 0 if vocabulary.types[at] == USER_DEFINED else SPECIAL
        found |= STRIP_LEFT if at in vocabulary.strips_left else 0
        return found | (STRIP_RIGHT if at in vocabulary.strips_right else 0)

    texts: dict[bytes, Special] = {}
    for at in sorted(specials):  # by id: of equal texts the first
        text = vocabulary.tokens[at]
        if text:
            texts.setdefault(text, Special(text, at, flags(at)))
    return Rules(raw=tuple(texts.values()))


def _words(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _flags(vocabulary: Vocabulary) -> int:
    return (
        vocabulary.add_bos
        | vocabulary.add_eos << 1
        | vocabulary.add_space_prefix << 2
        | vocabulary.ignore_merges << 3
    )


def _attributes(vocabulary: Vocabulary) -> bytes:
    return bytes(
        kind
        | (STRIP_LEFT if at in vocabulary.strips_left else 0)
        | (STRIP_RIGHT if at in vocabulary.strips_right else 0)
        for at, kind in enumerate(vocabulary.types)
    )


def _keys(vocabulary: Vocabulary) -> dict[bytes, int]:
    """Text to id, for every token that merging can make.

    In byte-level BPE a special token is stored as it is written, so it may have the bytes of a
    normal token (runs of spaces do); but merging makes it only if it is written in the alphabet
    of bytes, and then what it makes are those bytes.
    """
    if vocabulary.made_of:
        return {key: at for at, key in enumerate(vocabulary.made_of) if key}
    if vocabulary.kind == "spm":
        return {token: at for at, token in enumerate(vocabulary.tokens) if token}
    keys: dict[bytes, int] = {}
    for at, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        if token and kind not in SPECIAL_TYPES:
            keys.setdefault(token, at)
    for at, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True)):
        key = raw_bytes(token) if kind in SPECIAL_TYPES else None
        if key:
            keys.setdefault(key, at)
    return keys


def _symbols(
    vocabulary: Vocabulary, keys: dict[bytes, int]
) -> tuple[list[bytes], dict[bytes, int]]:
    """Tokens, then the strings that merges pass through without being tokens; and their ids."""
    symbols = list(vocabulary.tokens)
    numbers = dict(keys)
    if vocabulary.kind == "bpe" and not vocabulary.rules:
        passed = [bytes([byte]) for byte in range(256)]
        passed += [part for a, b in vocabulary.merges for part in (a, b, a + b)]
        for symbol in passed:
            if symbol not in numbers:
                numbers[symbol] = len(symbols)
                symbols.append(symbol)
    return symbols, numbers


def _byte_tokens(vocabulary: Vocabulary, numbers: dict[bytes, int]) -> list[int]:
    if vocabulary.kind == "bpe":
        return [numbers.get(bytes([byte]), NONE) for byte in range(256)]
    if vocabulary.kind == "characters":
        names = BYTE_NAMES if vocabulary.byte_fallback else ()
        return [numbers.get(name, NONE) for name in names] or [NONE] * 256
    return [
        numbers.get(name, numbers.get(bytes([byte]), NONE))
        for byte, name in enumerate(BYTE_NAMES)
    ]


def _priorities(vocabulary: Vocabulary) -> list[int]:
    """Scores as ranks, best 0, equal scores equal: the engine needs their order only."""
    best_first = sorted({score for score in vocabulary.scores if score != -_INFINITY})
    rank = {score: at for at, score in enumerate(reversed(best_first))}
    return [rank.get(score, NONE) for score in vocabulary.scores]


_INFINITY = float("inf")


def _merges(
    vocabulary: Vocabulary, symbol_count: int, numbers: dict[bytes, int]
) -> tuple[list[int], list[int]]:
    """(starts by left id, [right id, rank, merged id]...), by left and then by right id."""
    found: dict[tuple[int, int], tuple[int, int]] = {}
    for rank, (left, right) in enumerate(vocabulary.merges):
        found.setdefault((numbers[left], numbers[right]), (rank, numbers[left + right]))
    starts = [0] * (symbol_count + 1)
    entries: list[int] = []
    for (left_id, right_id), (rank, merged_id) in sorted(found.items()):
        starts[left_id + 1] += 1
        entries += [right_id, rank, merged_id]
    return list(accumulate(starts)), entries


def _hash(key: bytes) -> int:
    value = 2166136261
    for byte in key:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value ^ value >> 15


def _index(keys: dict[bytes, int]) -> tuple[list[int], int]:
    """Open addressing, id + 1 a slot, 0 empty; and the probes that the farthest key needs."""
    if not keys:
        return [], 0
    slots = 1 << (int(len(keys) * LEAST_SLOTS_PER_KEY)).bit_length()
    hashes = [(_hash(key), number) for key, number in keys.items()]
    while slots <= COUNT_LIMIT:
        table = [0] * slots
        probes = 0
        for value, number in hashes:
            distance = 0
            while table[(value + distance) & (slots - 1)]:
                distance += 1
            table[(value + distance) & (slots - 1)] = number + 1
            probes = max(probes, distance + 1)
        if probes <= PROBE_LIMIT:
            return table, probes
        slots *= 2
    raise ImageError("the tokenizer's texts cannot be indexed; too many have one hash")
