"""The packed tokenizer section: what the engine refuses, and that damage is never fatal."""

from __future__ import annotations

import random
import struct

import pytest

from qedge.runtime._engine import EngineError, Vocab
from qedge.toolkit.make.vocabulary_table import pack
from qedge.toolkit.source.vocabulary.value import (
    BYTE,
    BYTE_NAMES,
    CONTROL,
    NORMAL,
    UNKNOWN,
    Vocabulary,
)

ERR_IMAGE, ERR_VERSION = -1, -2
WORD = {"magic": 0, "version": 1, "header_bytes": 2, "section_bytes": 3, "kind": 4}
WORD |= {"pretokenizer": 5, "flags": 6, "token_count": 7, "symbol_count": 8, "merge_count": 9}
WORD |= {
    "index_slots": 12,
    "index_probes": 13,
    "bos": 16,
    "offsets": 20,
    "merges": 28,
    "rules": 30,
}


def bpe() -> Vocabulary:
    tokens = [bytes([byte]) for byte in range(256)] + [b"ab", b"abc", b"<|end|>"]
    return Vocabulary(
        kind="bpe",
        pretokenizer="llama3",
        tokens=tuple(tokens),
        types=(NORMAL,) * 258 + (CONTROL,),
        merges=((b"a", b"b"), (b"ab", b"c"), (b"x", b"y")),
        eos=258,
        stops=(258,),
        ignore_merges=True,
    )


def spm() -> Vocabulary:
    tokens = [b"<unk>", b"<s>", b"</s>", *BYTE_NAMES, b"a", b"b", b"ab", b"\xe2\x96\x81"]
    return Vocabulary(
        kind="spm",
        pretokenizer="",
        tokens=tuple(tokens),
        types=(UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 4),
        scores=tuple([0.0] * 259 + [-1.0, -2.0, -3.0, -4.0]),
        bos=1,
        eos=2,
        unknown=0,
        stops=(2,),
        add_bos=True,
        add_space_prefix=True,
    )


def with_word(section: bytes, name: str, value: int) -> bytes:
    at = 4 * WORD[name]
    return section[:at] + struct.pack("<I", value) + section[at + 4 :]


def error_of(section: bytes) -> int:
    with pytest.raises(EngineError) as failure:
        Vocab(section)
    return failure.value.code


@pytest.mark.parametrize("vocabulary", [bpe(), spm()], ids=["bpe", "spm"])
def test_packing_is_deterministic_and_aligned(vocabulary):
    section = pack(vocabulary)
    assert section == pack(vocabulary)
    assert len(section) % 4 == 0
    assert struct.unpack_from("<I", section, 4 * WORD["section_bytes"]) == (len(section),)


@pytest.mark.parametrize(
    ("name", "value"),
    [("version", 2), ("kind", 0), ("kind", 3), ("pretokenizer", 8), ("flags", 64)],
)
def test_what_a_newer_version_may_mean_is_a_version_error(name, value):
    assert error_of(with_word(pack(bpe()), name, value)) == ERR_VERSION


def test_bpe_without_a_pretokenizer_is_a_version_error():
    assert error_of(with_word(pack(bpe()), "pretokenizer", 0)) == ERR_VERSION


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("magic", 0),
        ("header_bytes", 64),
        ("section_bytes", 1 << 30),
        ("token_count", 0),
        ("token_count", 0xFFFFFFFF),
        ("symbol_count", 1 << 20),
        ("merge_count", 1 << 20),
        ("index_slots", 3),
        ("index_probes", 65),
        ("bos", 4000),
        ("offsets", 130),
        ("offsets", 0xFFFFFFFC),
        ("merges", 0xFFFFFFFC),
        ("rules", 64),
        ("flags", 32),
    ],
)
def test_a_broken_header_is_an_image_error(name, value):
    assert error_of(with_word(pack(bpe()), name, value)) == ERR_IMAGE


def test_every_truncation_is_an_image_error():
    section = pack(spm())
    assert {error_of(section[:n]) for n in range(0, len(section), 97)} == {ERR_IMAGE}


def test_a_string_outside_the_section_is_an_image_error_when_it_is_decoded():
    section = bytearray(pack(bpe()))
    offsets = struct.unpack_from("<I", section, 4 * WORD["offsets"])[0]
    struct.pack_into("<I", section, offsets + 4 * 98, 0xFFFFFF00)
    with pytest.raises(EngineError) as failure:
        Vocab(bytes(section)).decode(97)
    assert failure.value.code == ERR_IMAGE


@pytest.mark.parametrize("vocabulary", [bpe(), spm()], ids=["bpe", "spm"])
def test_damaged_bytes_give_ids_of_the_vocabulary_or_an_error(vocabulary):
    section = pack(vocabulary)
    chance = random.Random(1)
    for _ in range(500):
        damaged = bytearray(section)
        for _ in range(chance.randrange(1, 30)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            vocab = Vocab(bytes(damaged))
            for token in vocab.encode("abc ab \u20ac<|end|> aabbcc".encode(), special=True):
                assert token < vocab.size
                vocab.decode(token)
        except EngineError as error:
            assert error.code < 0


def test_a_word_that_is_a_token_is_not_merged_when_merges_are_ignored():
    assert Vocab(pack(bpe())).encode(b"abc") == [257]


def test_equal_scores_merge_from_the_left():
    vocabulary = spm()
    tokens = (*vocabulary.tokens, b"ba", b"aba")
    tied = Vocabulary(
        kind="spm",
        pretokenizer="",
        tokens=tokens,
        types=(*vocabulary.types, NORMAL, NORMAL),
        scores=(*vocabulary.scores[:-2], -3.0, -4.0, -3.0, float("-inf")),
    )
    assert Vocab(pack(tied)).encode(b"aba") == [261, 259]


def test_a_byte_without_a_token_is_the_unknown_token_in_spm():
    vocabulary = Vocabulary(
        kind="spm",
        pretokenizer="",
        tokens=(b"<unk>", b"a"),
        types=(UNKNOWN, NORMAL),
        scores=(0.0, 0.0),
        unknown=0,
    )
    assert Vocab(pack(vocabulary)).encode("a\u00e9".encode()) == [1, 0, 0]
