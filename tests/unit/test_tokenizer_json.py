"""Ids of folders' tokenizers against Hugging Face's own library, on many random ones."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from support.random_tokenizers import (
    BYTES,
    LETTERS,
    MARKS,
    PREPEND,
    make_text,
    make_tokenizer,
    metaspaces,
    of_bytes,
    text_for,
)
from tokenizers import Tokenizer

from qedge.runtime._engine import Vocab
from qedge.runtime.errors import ImageError
from qedge.toolkit.make.vocabulary_table import pack
from qedge.toolkit.source.vocabulary.hf import from_hf
from qedge.toolkit.source.vocabulary.shape import _CONTRACTIONS, _SHAPES, _SPELLINGS

TOKENIZERS, TEXTS = 90, 130  # more than 10,000 texts


def read(folder: Path, tokenizer: object, **files: object) -> Vocab:
    folder.mkdir(exist_ok=True)
    for name, value in (files | {"tokenizer": tokenizer}).items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return Vocab(pack(from_hf(folder)))


def library_ids(tokenizer: Tokenizer, text: str, special: bool) -> list[int] | None:
    """None where the library itself fails (it panics on some tokens that strip each other)."""
    tokenizer.encode_special_tokens = not special
    try:
        return tokenizer.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        assert type(error).__name__ == "PanicException", error
        return None


def small(**fields: object) -> dict[str, object]:
    """A byte-level tokenizer that merges what is within a word, mostly."""
    vocab = {letter: number for number, letter in enumerate(LETTERS)}
    merges = []
    for left in "abeistĠĊÃÌ":
        for right in "abeistĠĊ©ģ":
            if left + right not in vocab:
                vocab[left + right] = len(vocab)
                merges.append([left, right])
    return (
        {"added_tokens": [], "pre_tokenizer": BYTES | {"use_regex": True}}
        | fields
        | {"model": {"type": "BPE", "vocab": vocab, "merges": merges}}
    )


def added(number: int, content: str, **fields: object) -> dict[str, object]:
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return {"id": number, "content": content} | dict.fromkeys(names, False) | fields


def test_every_supported_shape_gives_the_ids_of_hugging_faces_library(tmp_path):
    found: Counter[str] = Counter()
    refused = []
    for seed in range(TOKENIZERS):
        tokenizer = make_tokenizer(seed)
        chance = random.Random(seed + 1000000)
        library = Tokenizer.from_str(json.dumps(tokenizer))
        try:
            mine = read(tmp_path / "model", tokenizer)
        except ImageError as error:
            refused.append(str(error))
            continue
        for _ in range(TEXTS):
            text, special = text_for(chance, tokenizer), chance.random() < 0.6
            ids = library_ids(library, text, special)
            if ids is not None:
                assert mine.encode(text.encode(), special=special) == ids, (seed, text, special)
                found["texts"] += 1
                found["tokens"] += len(ids)
    assert found["texts"] >= 10000 and found["tokens"] > 10 * found["texts"]
    # what cannot be equal: tokens that vanish or fall together when normalized, and ones that
    # no merging finds
    for text in refused:
        assert any(part in text for part in ("normalized", "ignore_merges")), text
    assert len(refused) < TOKENIZERS / 10


@pytest.mark.parametrize("words", of_bytes(), ids=str)
def test_every_pretokenizer_cuts_where_the_library_cuts(tmp_path, words):
    tokenizer = small(pre_tokenizer=words)
    mine, library = read(tmp_path, tokenizer), Tokenizer.from_str(json.dumps(tokenizer))
    chance = random.Random(7)
    for _ in range(400):
        text = make_text(chance, 40)
        assert mine.encode(text.encode()) == library_ids(library, text, False), text


def test_characters_are_of_the_librarys_classes_in_every_pretokenizer(tmp_path):
    # all of the first planes' classes change here; beyond are private ones and what is unused
    letters = [chr(at) for at in range(0x32400) if not 0xD800 <= at < 0xE000]
    for number, words in enumerate(of_bytes()):
        tokenizer = small(pre_tokenizer=words)
        mine, library = read(tmp_path, tokenizer), Tokenizer.from_str(json.dumps(tokenizer))
        # each among an upper and a lower case letter and a space: a wrong class moves a cut
        part = letters[number :: len(of_bytes())]
        text = "".join(f"as{letter}si {letter}" for letter in part)
        assert mine.encode(text.encode()) == library_ids(library, text, False)


def test_every_character_is_normalized_as_the_library_does_it(tmp_path):
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        tokenizer = small(normalizer={"type": form})
        mine, library = read(tmp_path, tokenizer), Tokenizer.from_str(json.dumps(tokenizer))
        letters = [chr(at) for at in (*range(0xA0, 0x3400), *range(0xA000, 0xAD00))]
        letters += [chr(at) for at in (*range(0xD700, 0xD800), *range(0xF900, 0x20000))]
        # before marks of a high and of a low class: order and composition show
        text = "".join(f"{letter}\u0301\u0323" for letter in letters)
        assert mine.encode(text.encode()) == library_ids(library, text, False), form


def test_a_thousand_marks_in_a_row_are_put_in_order(tmp_path):
    chance = random.Random(3)
    tokenizer = small(normalizer={"type": "NFC"})
    mine, library = read(tmp_path, tokenizer), Tokenizer.from_str(json.dumps(tokenizer))
    text = "a" + "".join(chance.choice("\u0301\u0323\u0334\u0345\u05b0") for _ in range(1000))
    assert mine.encode(text.encode()) == library_ids(library, text, False)
    assert mine.encode(b"cafe\xcc\x81") == mine.encode("café".encode())


def test_a_normalizer_that_grows_a_text_elevenfold_finds_the_memory(tmp_path):
    tokenizer = small(normalizer={"type": "NFKC"})
    mine, library = read(tmp_path, tokenizer), Tokenizer.from_str(json.dumps(tokenizer))
    for count in (1, 2, 50, 5000):
        text = "\ufdfa" * count
        assert mine.encode(text.encode()) == library_ids(library, text, False)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ([("<a", {}), ("<ab>", {}), ("b>", {})], "<ab> <ab <a b>"),
        (
            [("<a>", {"lstrip": True}), ("<b>", {"rstrip": True})],
            "x\u3000 <a>\xa0<b>\u2028 y<b>",
        ),
        ([("xy", {"single_word": True})], "xy axy xy_ xy\u0301 (xy) xy²xy xy\u200d"),
        ([("Ḗ", {"normalized": True})], "E\u0304\u0301 Ḗ"),
        ([("Ḗ", {})], "E\u0304\u0301 Ḗ"),
        ([(" ", {"lstrip": True, "rstrip": True})], "a    b  "),
        ([("<s>", {"special": True}), ("<t>", {})], "<s><t><s>"),
    ],
)
@pytest.mark.parametrize("special", [True, False])
def test_added_tokens_are_found_leftmost_then_longest(tmp_path, tokens, text, special):
    tokenizer = small(normalizer={"type": "NFC"})
    first = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [
        added(first + number, content, **fields)
        for number, (content, fields) in enumerate(tokens)
    ]
    mine, library = read(tmp_path, tokenizer), Tokenizer.from_str(json.dumps(tokenizer))
    assert mine.encode(text.encode(), special=special) == library_ids(library, text, special)


EDGES = ["a'ſb", "'ſ", "x'S'T st", "a \n", "a\n  ", "a \n \n  ", "\n\n  ", "a  \r\n b"]
LLAMA3 = next(steps[0] for steps, name in _SHAPES.items() if name == "llama3")
REFUSED = [  # white space at the end before newlines, and a fold that is none
    LLAMA3.replace("|\\s*[\\r\\n]+", "|\\s++$|\\s*[\\r\\n]+"),
    LLAMA3.replace("|\\s*[\\r\\n]+", "|\\s++$|\\s*[\\r\\n]"),
    LLAMA3.replace(_CONTRACTIONS, "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"),
]


def spelled() -> list[str]:
    """Every expression that is known, by every other spelling of each part that has one."""
    found = []
    for steps in _SHAPES:
        for step in steps:
            for other, usual in _SPELLINGS:
                if usual in step:
                    found.append(step.replace(usual, other))
    return found


@pytest.mark.parametrize("expression", spelled())
def test_every_other_spelling_of_an_expression_gives_the_same_ids(tmp_path, expression):
    pattern = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    steps = [pattern | {"invert": False}, BYTES | {"use_regex": False}]
    tokenizer = small(pre_tokenizer={"type": "Sequence", "pretokenizers": steps})
    library = Tokenizer.from_str(json.dumps(tokenizer))
    try:
        mine = read(tmp_path, tokenizer)
    except ImageError:
        return  # an expression of one step of several
    chance = random.Random(7)
    for text in [*EDGES, *(make_text(chance, 12) for _ in range(150))]:
        assert mine.encode(text.encode()) == library_ids(library, text, False), text


@pytest.mark.parametrize("expression", REFUSED)
def test_an_expression_that_cuts_otherwise_is_refused(tmp_path, expression):
    pattern = {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated"}
    steps = [pattern | {"invert": False}, BYTES | {"use_regex": False}]
    with pytest.raises(ImageError, match="pre_tokenizer"):
        read(tmp_path, small(pre_tokenizer={"type": "Sequence", "pretokenizers": steps}))


def test_a_text_to_split_at_is_no_expression(tmp_path):
    pattern = {"type": "Split", "pattern": {"String": "\\p{N}"}, "behavior": "Isolated"}
    steps = [pattern | {"invert": False}, BYTES | {"use_regex": True}]
    with pytest.raises(ImageError, match="pre_tokenizer"):
        read(tmp_path, small(pre_tokenizer={"type": "Sequence", "pretokenizers": steps}))


def test_metaspace_that_prepends_first_adds_a_space_to_the_texts_beginning_only(tmp_path):
    words = next(step for step in metaspaces() if step["prepend_scheme"] == "first")
    vocab = ["<unk>", "\u2581", "a", "\u2581a", "<s>"]
    tokenizer = {
        "added_tokens": [added(4, "<s>", special=True)],
        "normalizer": None,
        "pre_tokenizer": words,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {text: number for number, text in enumerate(vocab)},
            "merges": [["\u2581", "a"]],
        },
    }
    mine = read(tmp_path, tokenizer)
    assert mine.encode(b"a") == [3]
    assert mine.encode(b" a") == [3]
    assert mine.encode(b"  a") == [1, 3]
    assert mine.encode(b"<s>a a", special=True) == [4, 2, 3]


def test_tokens_that_one_word_ends_and_a_template_begins_are_read(tmp_path):
    template = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "</s>", "type_id": 0}},
        ],
        "special_tokens": {},
    }
    tokenizer = small(post_processor=template)
    first = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [
        added(first, "<s>", special=True),
        added(first + 1, "</s>", special=True),
    ]
    read(tmp_path, tokenizer)
    words = from_hf(tmp_path)
    assert (words.bos, words.eos, words.add_bos, words.add_eos) == (
        *(first, first + 1),
        *(True, True),
    )
    assert Vocab(pack(words)).encode(b"a", bos=True)[0] == first


def test_two_tokens_that_are_one_when_normalized_are_refused(tmp_path):
    tokenizer = small(normalizer={"type": "NFC"})
    first = len(tokenizer["model"]["vocab"])
    tokenizer["added_tokens"] = [
        added(first, "ḗ", normalized=True),
        added(first + 1, "e\u0304\u0301", normalized=True),
    ]
    with pytest.raises(ImageError, match="one text when"):
        read(tmp_path, tokenizer)


def test_tokens_of_the_configuration_are_added_as_transformers_adds_them(tmp_path):
    tokenizer = small()
    vocab = tokenizer["model"]["vocab"]
    vocab["<bos>"] = len(vocab)
    bos, new = vocab["<bos>"], len(vocab)
    config = {
        "bos_token": "<bos>",
        "added_tokens_decoder": {str(new): added(new, "<new>", lstrip=True)},
    }
    mine = read(tmp_path, tokenizer, tokenizer_config=config)
    assert mine.encode(b"<bos>  <new>", special=True) == [bos, new]
    assert mine.encode(b"<new>") == [new] and bos not in mine.encode(b"<bos>")


@pytest.mark.parametrize("none", [-1, 4294967295, None, [-1], [None]])
def test_an_id_that_means_none_is_none(tmp_path, none):
    files = {"config": {"eos_token_id": none, "bos_token_id": none}}
    mine = read(tmp_path, small(), generation_config=files["config"], **files)
    assert (mine.bos, mine.eos) == (None, None)


def test_a_mutated_tokenizer_file_is_read_or_refused(tmp_path):
    chance = random.Random(11)
    odd = [None, -1, True, 1.5, 1 << 40, "", "x", "\ud800", [], {}, [[]], [None], {"type": 1}]
    outcomes: Counter[bool] = Counter()
    for number in range(150):
        tokenizer = make_tokenizer(chance.randrange(8))
        files = {"tokenizer_config": {"bos_token": None, "added_tokens_decoder": {}}}
        places = [tokenizer, tokenizer["model"], *tokenizer["added_tokens"]]
        places += [part for part in tokenizer.values() if isinstance(part, dict)]
        places.append(files["tokenizer_config"])
        for _ in range(chance.randrange(1, 4)):
            place = chance.choice(places)
            if place:
                place[chance.choice(list(place))] = chance.choice(odd)
        try:
            read(tmp_path / "mutated", tokenizer, **files).encode(b"a <s> b", special=True)
            outcomes[True] += 1
        except ImageError as error:
            assert str(tmp_path) in str(error) or "tokenizer" in str(error), number
            outcomes[False] += 1
    assert min(outcomes.values()) > 15


def test_a_file_of_llama_2_prefixes_every_piece_between_control_tokens(tmp_path):
    vocab = ["<unk>", "<s>", "\u2581", "a", "\u2581a"]
    tokenizer = {
        "added_tokens": [added(1, "<s>", special=True)],
        "normalizer": {"type": "Sequence", "normalizers": [PREPEND, MARKS]},
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "vocab": {text: number for number, text in enumerate(vocab)},
            "merges": [["\u2581", "a"]],
        },
    }
    mine = read(tmp_path, tokenizer)
    assert mine.encode(b"<s>a<s> a", special=True) == [1, 4, 1, 2, 4]
