"""Reading tokenizers from a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qedge.runtime._engine import Vocab
from qedge.runtime.errors import ImageError
from qedge.toolkit.make.vocabulary_table import pack
from qedge.toolkit.source.vocabulary.hf import from_hf
from qedge.toolkit.source.vocabulary.value import BYTE, CONTROL, UNUSED, USER_DEFINED

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
WORDS = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
LLAMA3 = (
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
)


def split(expression: str) -> dict[str, object]:
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}


def sequence(*steps: object) -> dict[str, object]:
    return {"type": "Sequence", "pretokenizers": list(steps)}


def added(number: int, text: str, **fields: object) -> dict[str, object]:
    return {"id": number, "content": text, "special": True} | fields


def bpe(**model: object) -> dict[str, object]:
    return {
        "added_tokens": [added(4, "<|im_end|>"), added(5, "<x>", special=False, rstrip=True)],
        "normalizer": None,
        "pre_tokenizer": WORDS,
        "model": {
            "type": "BPE",
            "vocab": {"a": 0, "b": 1, "ab": 2, "Ġ": 3},
            "merges": ["a b"],
        }
        | model,
    }


def byte_fallback() -> dict[str, object]:
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocab |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {text: 259 + at for at, text in enumerate(["▁", "a", "b", "ab", "▁a", "▁ab"])}
    prepend = {"type": "Prepend", "prepend": "▁"}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [prepend, replace]},
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
        },
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "unk_token": "<unk>",
            "vocab": vocab,
            "merges": [["a", "b"], ["▁", "a"], ["▁", "ab"], ["▁a", "b"]],
        },
    }


def write(folder: Path, tokenizer: object, **files: object) -> Path:
    for name, value in (files | {"tokenizer": tokenizer}).items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def message(folder: Path) -> str:
    with pytest.raises(ImageError) as failure:
        from_hf(folder)
    return str(failure.value)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (WORDS, "gpt-2"),
        (sequence(DIGITS, WORDS), "smollm"),
        (sequence(split(LLAMA3), BYTES), "llama3"),
        (sequence(split(LLAMA3.replace("{1,3}", "")), BYTES), "qwen2"),
        (
            sequence(
                split("[\\r\\n]"),
                split("\\s?\\p{L}+"),
                split("\\s?\\p{P}+"),
                split("[一-龥ࠀ-一가-퟿]+"),
                DIGITS,
                BYTES,
            ),
            "deepseek-coder",
        ),
    ],
)
def test_pretokenizers_are_known_by_their_structure(tmp_path, steps, name):
    folder = write(tmp_path, bpe() | {"pre_tokenizer": steps})
    assert from_hf(folder).pretokenizer == name


@pytest.mark.parametrize(
    "steps",
    [
        None,
        {"type": "Whitespace"},
        sequence(split("\\w+"), BYTES),
        sequence(sequence(DIGITS), WORDS),
        sequence(DIGITS, WORDS | {"add_prefix_space": True}),
        {"type": "Sequence", "pretokenizers": None},
        {"type": "Metaspace", "replacement": "_"},
        {"type": "Metaspace", "prepend_scheme": "last"},
        "Metaspace",
    ],
)
def test_an_unknown_pretokenizer_is_refused_without_advice_that_leads_back(tmp_path, steps):
    text = message(write(tmp_path, bpe() | {"pre_tokenizer": steps}))
    assert "pre_tokenizer" in text and "GGUF" not in text


def test_merges_may_be_texts_or_pairs(tmp_path):
    first = from_hf(write(tmp_path, bpe()))
    assert first == from_hf(write(tmp_path, bpe(merges=[["a", "b"]])))
    assert first.merges == ((b"a", b"b"),)


def test_added_tokens_are_control_or_user_defined_and_may_strip(tmp_path):
    read = from_hf(write(tmp_path, bpe()))
    assert read.tokens[3:] == (b" ", b"<|im_end|>", b"<x>")
    assert read.types[4:] == (CONTROL, USER_DEFINED)
    assert Vocab(pack(read)).encode(b"ab<x>  ab") == [2, 5, 2]


def test_ids_of_a_padded_vocabulary_are_unused_tokens(tmp_path):
    read = from_hf(write(tmp_path, bpe(), config={"vocab_size": 8}))
    assert read.types[6:] == (UNUSED, UNUSED)
    assert Vocab(pack(read)).size == 8


def test_stops_are_gathered_from_all_files(tmp_path):
    folder = write(
        tmp_path,
        bpe(),
        tokenizer_config={"eos_token": {"content": "<x>"}},
        generation_config={"eos_token_id": [1, 4]},
        config={"eos_token_id": 2, "bos_token_id": 0},
    )
    read = from_hf(folder)
    assert (read.bos, read.eos, read.stops) == (0, 5, (1, 2, 4, 5))


def test_byte_fallback_tokenizers_merge_characters_and_fall_back_to_bytes(tmp_path):
    read = from_hf(write(tmp_path, byte_fallback(), tokenizer_config={"eos_token": "</s>"}))
    assert (read.kind, read.add_bos, read.bos) == ("characters", True, 1)
    assert read.types[3] == BYTE
    tiny = Vocab(pack(read))
    assert tiny.encode(b"ab a") == [264, 263]
    assert tiny.encode(b"abc", bos=True) == [1, 264, 3 + ord("c")]


def test_metaspace_that_prepends_never_adds_no_space(tmp_path):
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never"}
    tokenizer = byte_fallback() | {"normalizer": None, "pre_tokenizer": metaspace}
    read = from_hf(write(tmp_path, tokenizer))
    assert Vocab(pack(read)).encode(b"ab") == [262]


def test_add_bos_of_the_configuration_wins_over_the_template(tmp_path):
    folder = write(tmp_path, byte_fallback(), tokenizer_config={"add_bos_token": False})
    assert not from_hf(folder).add_bos


@pytest.mark.parametrize(
    ("tokenizer", "part"),
    [
        ([], "not a JSON object"),
        ({"model": None}, "model"),
        ({"model": {"type": "Unigram", "vocab": []}}, "'Unigram'"),
        (bpe(vocab=[]), "model.vocab"),
        (bpe(vocab={}, merges=[]) | {"added_tokens": []}, "no tokens"),
        (bpe(vocab={"a": -1}), "not an id"),
        (bpe(vocab={"a": 0, "b": 0}), "both have id 0"),
        (bpe(vocab={"a": 0, "b": 1 << 23}, merges=[]) | {"added_tokens": []}, "ids go up to"),
        (bpe(vocab={"a": 4}), "in added_tokens"),
        (bpe(merges=["a  b"]), "merges[0]"),
        (bpe(merges=[["a"]]), "merges[0]"),
        (bpe(merges=["a 你"]), "merges[0]"),
        (bpe(merges={}), "model.merges"),
        (bpe(end_of_word_suffix="</w>"), "end_of_word_suffix"),
        (bpe(unk_token="?"), "unk_token"),
        (bpe() | {"normalizer": {"type": "Lowercase"}}, "Lowercase"),
        (bpe() | {"added_tokens": [{"id": "x"}]}, "added token"),
        (bpe() | {"added_tokens": [added(6, "a")]}, "tokens 0 and 6"),
        (byte_fallback() | {"normalizer": {"type": "NFKC"}}, "U+2581"),
        (
            bpe() | {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
            "Precomp",
        ),
        (bpe() | {"normalizer": {"type": "Replace", "pattern": {"Regex": "a+"}}}, "a+"),
        (bpe() | {"normalizer": {"type": "Replace", "pattern": {"String": ""}}}, "Replace"),
        (bpe() | {"normalizer": "NFC"}, "normalizer"),
        (bpe() | {"normalizer": {"type": "Sequence", "normalizers": [1]}}, "normalizer"),
        (bpe() | {"post_processor": {"type": "RobertaProcessing"}}, "RobertaProcessing"),
        (bpe() | {"added_tokens": [added(9, "<x>")]}, "counts it as 4"),
        (bpe(dropout=0.1), "dropout"),
        (bpe(merges=["a a"]), "'aa'"),
    ],
)
def test_a_tokenizer_file_that_is_not_known_is_an_image_error(tmp_path, tokenizer, part):
    assert part in message(write(tmp_path, tokenizer))


def test_damaged_and_missing_files_are_image_errors(tmp_path):
    assert "tokenizer.json" in message(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    assert "not JSON" in message(tmp_path)


def test_ids_of_the_configuration_must_be_in_the_vocabulary(tmp_path):
    assert "99" in message(write(tmp_path, bpe(), config={"eos_token_id": 99}))
    folder = write(tmp_path, bpe(), config={}, tokenizer_config={"bos_token": "<s>"})
    assert "bos_token" in message(folder)
