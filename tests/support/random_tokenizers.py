"""Random tokenizer.json files of every shape that is supported, and texts for them.

A seed gives one tokenizer: bytes or characters, with a normalizer, added tokens that overlap
and strip, merges learned from such texts. Nothing here uses the code under test but the list of
pre-tokenizers, so that a new one is tried by itself.
"""

from __future__ import annotations

import random
from typing import Any

from qedge.toolkit.source.vocabulary.shape import _SHAPES

# What tokenizers stumble over: cases, marks in any order, Hangul in parts, digits of other
# scripts, all sorts of white space, controls, joiners, signs that special tokens begin with.
PARTS = [*"abcAB ' st1 2\n\t.,/-_<>"]
PARTS += [
    "é",
    "e\u0301",
    "\u0301",
    "\u0323",
    "ß",
    "Å",
    "ﬁ",
    "½",
    "①",
    "２",
    "ſ",
    "Ⅷ",
    "²",
    "ⓐ",
    "日",
    "本",
]
PARTS += [
    "한",
    "\u1112",
    "\u1161",
    "\u11ab",
    "가",
    "\u1e9b\u0323",
    "🙂",
    "\u200d",
    "\u3000",
    "\xa0",
]
PARTS += [
    "\u2028",
    "\x85",
    "\u2581",
    "ΑΣ",
    "ǅ",
    "ʰ",
    "\u0bcd",
    "\x00",
    "\x1c",
    "À",
    "\u0344",
    "ﷺ",
]
PARTS += ["[x]", "<s>", "‿", "\u1c89", "\u1c8a", "\r", "\r\n", "'S", "'LL", "'ſ", "  ", "   "]
ADDED = [
    "<s>",
    "<s",
    "s>",
    "[x]",
    "ab",
    "a",
    "  ",
    " ",
    "\n",
    "é",
    "A",
    "b'",
    "<s><s>",
    "_",
    "x y",
    "Å",
]

BYTES = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": False,
}
WORDS = BYTES | {"use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
PREPEND = {"type": "Prepend", "prepend": "\u2581"}
MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
JSON = dict[str, Any]


def byte_letters() -> list[str]:
    """The letters that byte-level files write bytes with, by byte."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(256, 512))
    return [chr(byte if byte in plain else next(rest)) for byte in range(256)]


LETTERS = byte_letters()


def make_text(chance: random.Random, parts: int | None = None) -> str:
    """A text of so many parts; some are characters from anywhere."""
    if parts is None:
        parts = chance.choice([0, 1, 2, 3, 5, 8, 13, 30])
    anywhere = [(0x20, 0x250), (0x300, 0x370), (0x250, 0xD7FF), (0xE000, 0x20000)]
    return "".join(
        chance.choice(PARTS)
        if chance.random() < 0.95
        else chr(chance.randrange(*chance.choice(anywhere)))
        for _ in range(parts)
    )


def text_for(chance: random.Random, tokenizer: JSON) -> str:
    """A text with some of the tokenizer's added tokens in it."""
    text = make_text(chance)
    added = tokenizer["added_tokens"]
    for _ in range(chance.randrange(4) if added else 0):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(added)["content"] + text[at:]
    return text


def split(expression: str) -> JSON:
    return {
        "type": "Split",
        "pattern": {"Regex": expression},
        "behavior": "Isolated",
        "invert": False,
    }


def of_bytes() -> list[JSON]:
    """Every pre-tokenizer of byte-level BPE."""
    named = {"bytes": BYTES, "bytes+words": WORDS, "digits": DIGITS}
    found = []
    for shape in _SHAPES:
        steps = [named.get(step) or split(step) for step in shape]
        found.append(
            steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
        )
    return found + [step | {"add_prefix_space": True} for step in (BYTES, WORDS)]


def metaspaces() -> list[JSON]:
    return [
        {
            "type": "Metaspace",
            "replacement": "\u2581",
            "prepend_scheme": scheme,
            "split": splits,
        }
        for scheme in ("first", "always", "never")
        for splits in (True, False)
    ]


def _normalizer(chance: random.Random, is_legacy: bool, may_empty: bool) -> JSON | None:
    steps: list[JSON] = [{"type": form} for form in ("NFC", "NFD", "NFKC", "NFKD")]
    if is_legacy:
        found = [PREPEND, MARKS] if chance.random() < 0.6 else [MARKS]
        if chance.random() < 0.4:
            found = [chance.choice(steps), *found]
        return {"type": "Sequence", "normalizers": found}
    sides = {"strip_left": chance.random() < 0.5, "strip_right": chance.random() < 0.5}
    pattern = chance.choice(["a", "ab", " ", "  ", "é", "'"])
    content = chance.choice(["b", "abc", "\n", "ü"] + [""] * may_empty)
    steps += [
        {"type": "Strip"} | sides,
        {"type": "Replace", "pattern": {"String": pattern}, "content": content},
        {"type": "Replace", "pattern": {"Regex": "b"}, "content": "cc"},
        {"type": "Prepend", "prepend": chance.choice(["a", "\u2581"])},
    ]
    kind = chance.random()
    if kind < 0.35:
        return None
    if kind < 0.8:
        return chance.choice(steps)
    found = [chance.choice(steps) for _ in range(chance.randrange(4))]
    return {"type": "Sequence", "normalizers": found}


def _merges(
    chance: random.Random, vocab: list[str], is_bytes: bool, unknown: str | None
) -> list[list[str]]:
    """Pairs that occur in such texts; what they make is appended to the vocabulary."""
    symbols = {text for text in vocab if text != unknown and not text.startswith("<0x")}
    samples = []
    for _ in range(40):
        text = make_text(chance, 20)
        letters = [LETTERS[byte] for byte in text.encode()] if is_bytes else list(text)
        written = (letter if is_bytes else letter.replace(" ", "\u2581") for letter in letters)
        samples.append([letter for letter in written if letter in symbols])
    known, found = set(vocab), []
    for _ in range(chance.choice([5, 40, 150])):
        sample = chance.choice(samples)
        if len(sample) < 2:
            continue
        at = chance.randrange(len(sample) - 1)
        left, right = sample[at : at + 2]
        if left + right not in known:
            known.add(left + right)
            vocab.append(left + right)
        found.append([left, right])
        for other in samples:
            at = 0
            while at < len(other) - 1:
                if other[at : at + 2] == [left, right] and chance.random() < 0.8:
                    other[at : at + 2] = [left + right]
                at += 1
    if found and chance.random() < 0.3:
        found.append(chance.choice(found))
    if chance.random() < 0.3:
        chance.shuffle(found)
    return found


def _added(chance: random.Random, vocab: list[str]) -> list[JSON]:
    """Added tokens with the ids that the library counts."""
    id_of = {text: number for number, text in enumerate(vocab)}
    found: dict[str, JSON] = {}
    last = -1
    for _ in range(chance.choice([0, 1, 3, 8, 20])):
        text = chance.choice(
            [
                make_text(chance, chance.randrange(1, 4)),
                chance.choice(ADDED),
                chance.choice(vocab),
            ]
        )
        if text in found:
            continue
        after = last + 1 if last >= len(vocab) else len(vocab)
        found[text] = {"id": id_of.get(text, after), "content": text}
        found[text] |= {
            name: chance.random() < often
            for name, often in (
                *(("single_word", 0.25), ("lstrip", 0.3), ("rstrip", 0.3)),
                *(("normalized", 0.5), ("special", 0.5)),
            )
        }
        last = max(last, found[text]["id"])
    return list(found.values())


def make_tokenizer(seed: int) -> JSON:
    """A tokenizer.json as a value."""
    chance = random.Random(seed)
    kind = chance.choice(["bytes", "bytes", "legacy", "metaspace"])
    is_bytes, fallback = kind == "bytes", False
    words = None
    if is_bytes:
        words = chance.choice(of_bytes())
        keep = 0.9 if chance.random() < 0.3 else 1.0
        alphabet = [letter for letter in LETTERS if chance.random() < keep]
    else:
        words = chance.choice(metaspaces()) if kind == "metaspace" else None
        alphabet = [letter for part in PARTS for letter in part if chance.random() < 0.75]
        alphabet.append("\u2581")
        fallback = chance.random() < 0.6
    unknown = "<unk>" if chance.random() < 0.7 else None
    vocab = [unknown] if unknown else []
    if fallback:
        often = chance.choice([1.0, 0.9])
        vocab += [f"<0x{byte:02X}>" for byte in range(256) if chance.random() < often]
    vocab = list(dict.fromkeys(vocab + alphabet))
    merges = _merges(chance, vocab, is_bytes, unknown)
    lines = [" ".join(pair) for pair in merges]
    is_first = words is not None and words.get("prepend_scheme") == "first"
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(chance, vocab),
        "normalizer": _normalizer(chance, kind == "legacy", not is_first),
        "pre_tokenizer": words,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": unknown,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": chance.random() < 0.5,
            "byte_fallback": fallback,
            "ignore_merges": chance.random() < 0.2,
            "vocab": {text: number for number, text in enumerate(vocab)},
            "merges": lines if all(line.count(" ") == 1 for line in lines) else merges,
        },
    }
