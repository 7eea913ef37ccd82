"""Reads the vocabulary of a llama2.c checkpoint: its tokenizer.bin."""

from __future__ import annotations

import struct
from pathlib import Path

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary.rules import SPACE_MARK
from qedge.toolkit.source.vocabulary.value import (
    BYTE,
    BYTE_NAMES,
    CONTROL,
    NORMAL,
    UNKNOWN,
    Vocabulary,
    refuse_duplicates,
)

# <unk> <s> </s>, then a token for each byte
FIRST_BYTE = 3
TOKEN_LIMIT_BYTES = 1 << 16


def from_llama2c(path: Path, vocab_size: int) -> Vocabulary:
    """llama2.c's tokenizer.bin: u32 longest token; a token is f32 score, i32 bytes, text."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give llama2.c's tokenizer.bin") from None
    records = _records(data, path, vocab_size)
    texts = [b"<unk>", b"<s>", b"</s>"][: len(records)]
    texts += [text.replace(b" ", SPACE_MARK) for _, text in records[len(texts) :]]
    types = [UNKNOWN, CONTROL, CONTROL] + [NORMAL] * len(texts)
    types = types[: len(texts)]
    for number in range(FIRST_BYTE, min(len(texts), FIRST_BYTE + 256)):
        if texts[number] == BYTE_NAMES[number - FIRST_BYTE]:
            types[number] = BYTE
    refuse_duplicates(texts, str(path))
    if len(texts) < FIRST_BYTE:
        raise ImageError(f"{path}: {len(texts)} tokens, but llama2.c has <unk>, <s> and </s>")
    return Vocabulary(
        kind="spm",
        pretokenizer="",
        tokens=tuple(texts),
        types=tuple(types),
        scores=tuple(score for score, _ in records),
        bos=1,
        eos=2,
        unknown=0,
        stops=(2,),
        add_bos=True,
        add_space_prefix=True,
    )


def _records(data: bytes, path: Path, vocab_size: int) -> list[tuple[float, bytes]]:
    records: list[tuple[float, bytes]] = []
    at = 4
    while len(records) < vocab_size:
        if at + 8 > len(data):
            raise ImageError(
                f"{path}: ends after {len(records)} of {vocab_size} tokens;"
                " it is cut short or belongs to another model"
            )
        score, length = struct.unpack_from("<fi", data, at)
        at += 8
        if not 0 <= length <= TOKEN_LIMIT_BYTES or at + length > len(data):
            raise ImageError(
                f"{path}: token {len(records)} is said to have {length} bytes at offset {at};"
                " this is not a tokenizer.bin of llama2.c, or it is damaged"
            )
        records.append((score, data[at : at + length]))
        at += length
    if at != len(data):
        raise ImageError(
            f"{path}: {len(data) - at} bytes are left after {vocab_size} tokens;"
            " the tokenizer belongs to a model with another vocabulary size"
        )
    return records
