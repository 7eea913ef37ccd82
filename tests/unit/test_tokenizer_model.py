"""Ids of folders that have SentencePiece's tokenizer.model alone, against SentencePiece."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest
import sentencepiece
from support.random_tokenizers import make_text

from qedge.runtime._engine import EngineError, Vocab
from qedge.runtime.errors import ImageError
from qedge.toolkit.make.vocabulary_table import pack
from qedge.toolkit.source.vocabulary.hf import from_hf

HOUSE = " the river of the small house"


def train(seed: int, **options: object) -> bytes:
    chance = random.Random(seed)
    lines = [make_text(chance, 12) + HOUSE for _ in range(200)]
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=out,
        minloglevel=2,
        hard_vocab_limit=False,
        **{"model_type": "bpe", "vocab_size": 500} | options,
    )
    return out.getvalue()


def read(folder: Path, model: bytes, **files: object) -> Vocab:
    (folder / "tokenizer.model").write_bytes(model)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Vocab(pack(from_hf(folder)))


@pytest.mark.parametrize("rules", ["nmt_nfkc", "identity", "nfkc", "nmt_nfkc_cf"])
@pytest.mark.parametrize("squeezes", [True, False])
def test_ids_are_sentencepieces_for_every_normalizer(tmp_path, rules, squeezes):
    for seed in range(2):
        chance = random.Random(seed)
        model = train(
            seed,
            byte_fallback=bool(seed),
            normalization_rule_name=rules,
            remove_extra_whitespaces=squeezes,
            add_dummy_prefix=chance.random() < 0.7,
            allow_whitespace_only_pieces=not squeezes,
            user_defined_symbols=["<x>", "ri", "[x]", "[x]y"] if seed else [],
        )
        mine = read(tmp_path, model)
        reference = sentencepiece.SentencePieceProcessor(model_proto=model)
        for _ in range(300):
            text = make_text(chance)
            for _ in range(chance.randrange(3)):
                at = chance.randrange(len(text) + 1)
                text = text[:at] + chance.choice(["<x>", "ri", "  ", "[x]y", HOUSE]) + text[at:]
            assert mine.encode(text.encode()) == reference.encode(text), (seed, text)


def test_control_tokens_are_found_on_request_and_a_space_goes_before_each_piece(tmp_path):
    model = train(1, byte_fallback=True)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    mine = read(tmp_path, model)
    river = reference.encode("river")
    assert mine.encode(b"<s>river</s>river", special=True) == [1, *river, 2, *river]
    assert mine.encode(b"<s>river") == reference.encode("<s>river")
    assert mine.encode(b"river", bos=True) == [1, *river]


def test_a_folder_that_is_not_legacy_prefixes_the_text_only(tmp_path):
    model = train(1, byte_fallback=True)
    mine = read(tmp_path, model, tokenizer_config={"legacy": False, "add_bos_token": False})
    ids = mine.encode(b"<s>river</s>river", special=True)
    assert b"".join(mine.decode(token, special=True) for token in ids) == b"<s>river</s>river"
    assert mine.encode(b"river", bos=True) == mine.encode(b"river")


def test_tokens_of_the_configuration_come_behind_the_pieces(tmp_path):
    model = train(1, byte_fallback=True)
    count = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    added = {str(count): {"content": "[INST]", "special": True}}
    mine = read(tmp_path, model, tokenizer_config={"added_tokens_decoder": added})
    assert mine.encode(b"[INST]", special=True) == [count]
    assert mine.size == count + 1


def test_what_is_no_bpe_model_is_refused_by_name(tmp_path):
    with pytest.raises(ImageError, match="unigram"):
        read(tmp_path, train(1, model_type="unigram", vocab_size=300))
    with pytest.raises(ImageError, match="git lfs pull"):
        read(tmp_path, b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ImageError, match="not a SentencePiece model"):
        read(tmp_path, b"\xff" * 100)


def test_a_mutated_model_is_read_or_refused(tmp_path):
    model = train(1, byte_fallback=True)
    chance = random.Random(5)
    opened = 0
    for _ in range(300):
        damaged = bytearray(model[: chance.choice([len(model), chance.randrange(len(model))])])
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            mine = read(tmp_path, bytes(damaged))
            assert all(token < mine.size for token in mine.encode("ﬁ a <s>  é".encode()))
            opened += 1
        except (ImageError, EngineError):
            pass
    assert opened > 30
