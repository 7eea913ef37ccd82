"""Reads the vocabulary of a Hugging Face folder: tokenizer.json and the small files beside it,
or SentencePiece's tokenizer.model where there is no tokenizer.json.

The ids are those that Hugging Face's tokenizers give for the folder; shape.py says
which tokenizers are known, and any other is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.vocabulary import shape
from qedge.toolkit.source.vocabulary.named import (
    as_dict,
    as_list,
    is_id,
    named_id,
    named_ids,
    template_ends,
)
from qedge.toolkit.source.vocabulary.rules import (
    FUSE_UNKNOWN,
    SINGLE_WORD,
    SPECIAL,
    STRIP_LEFT,
    STRIP_RIGHT,
    Rules,
    Special,
    Step,
    normalized,
)
from qedge.toolkit.source.vocabulary.shape import shown
from qedge.toolkit.source.vocabulary.spm import from_spm
from qedge.toolkit.source.vocabulary.value import (
    BYTE,
    BYTE_NAMES,
    BYTE_OF_LETTER,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Vocabulary,
    mark_by_text,
    raw_bytes,
    refuse_duplicates,
)

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token")
_NAMED_LISTS = ("additional_special_tokens", "extra_special_tokens")


def from_hf(folder: Path) -> Vocabulary:
    """The vocabulary of a folder with tokenizer.json, or else with tokenizer.model;
    tokenizer_config.json, config.json and generation_config.json are read when they are
    there. ImageError."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    files = {
        name: read_json(folder / f"{name}.json")
        for name in ("tokenizer_config", "config", "generation_config")
    }
    if not path.exists() and (folder / "tokenizer.model").exists():
        return from_spm(folder / "tokenizer.model", files)
    tokenizer = read_json(path, required=True)
    model = as_dict(tokenizer.get("model"), path, "model")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ImageError(f"{path}: model.type is {kind!r}; known is 'BPE'")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ImageError(f"{path}: model.{name} is {model[name]!r}; known is none")
    if model.get("dropout"):
        raise ImageError(f"{path}: model.dropout makes ids random; set it to null")
    steps = shape.read_normalizer(tokenizer.get("normalizer"), path)
    words = tokenizer.get("pre_tokenizer")
    is_bytes = shape.is_of_bytes(words, path) or not (steps or words)
    if is_bytes:
        pretokenizer, traits = shape.read_bytes_words(words, path)
    else:
        pretokenizer, traits, steps = shape.read_characters_words(words, steps, path)
    vocab = _model_vocab(model, path)
    added = _added(tokenizer, vocab, files["tokenizer_config"], path)
    texts, types = _tokens(vocab, added, path, files["config"].get("vocab_size"))
    number_of = {text: number for number, text in enumerate(texts)}
    byte_fallback = bool(model.get("byte_fallback")) and not is_bytes
    if model.get("byte_fallback") and is_bytes and not BYTE_OF_LETTER.keys() <= vocab.keys():
        raise ImageError(f"{path}: model.byte_fallback with ByteLevel wants a token a byte")
    if byte_fallback:
        for byte_name in BYTE_NAMES:
            number = number_of.get(byte_name)
            if number is not None and types[number] == NORMAL:
                types[number] = BYTE
    unknown = named_id(model.get("unk_token"), number_of, path, "model.unk_token")
    if unknown is not None and not is_bytes:
        types[unknown] = UNKNOWN
    traits |= FUSE_UNKNOWN if model.get("fuse_unk") else 0
    rules = _rules(added, steps, traits, path)
    stops = mark_by_text(texts, types)
    ends = template_ends(tokenizer.get("post_processor"), number_of, path)
    found = named_ids(files, ends, stops, number_of, path)
    made_of: list[bytes | None] = [None] * len(texts)
    for text, number in vocab.items():
        made_of[number] = raw_bytes(_encoded(text)) if is_bytes else _encoded(text)
    ignore_merges = bool(model.get("ignore_merges"))
    tokens = tuple(
        text
        if not is_bytes or kind in (CONTROL, UNKNOWN, USER_DEFINED)
        else raw_bytes(text) or text
        for text, kind in zip(texts, types, strict=True)
    )
    if ignore_merges:
        for number, made in enumerate(made_of):
            if made is not None and made != tokens[number]:
                raise ImageError(
                    f"{path}: model.ignore_merges with added token"
                    f" {shown(texts[number].decode())} is not supported: its ids would not be"
                    " equal"
                )
    return Vocabulary(
        kind="bpe" if is_bytes else "characters",
        pretokenizer=pretokenizer,
        tokens=tokens,
        types=tuple(types),
        merges=_merges(model, vocab, is_bytes, path),
        unknown=unknown,
        ignore_merges=ignore_merges,
        rules=rules,
        made_of=tuple(made_of),
        byte_fallback=byte_fallback,
        **found,
    )


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """A JSON object, empty when an optional file is not there. ImageError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if required:
            raise ImageError(
                f"{path}: no such file, nor tokenizer.model; download the model's tokenizer"
            ) from None
        return {}
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; make it readable") from None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        if data.startswith(b"version https://git-lfs"):
            raise ImageError(f"{path}: is a Git LFS pointer; run git lfs pull") from None
        raise ImageError(f"{path}: is not JSON; it is damaged, download it again") from None
    return as_dict(value, path, "the file")


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")


def _model_vocab(model: dict[str, Any], path: Path) -> dict[str, int]:
    vocab = as_dict(model.get("vocab"), path, "model.vocab")
    by_id: dict[int, str] = {}
    for text, number in vocab.items():
        if not is_id(number):
            raise ImageError(f"{path}: model.vocab[{text!r}] is {number!r}, not an id")
        if number in by_id:
            raise ImageError(f"{path}: {by_id[number]!r} and {text!r} both have id {number}")
        by_id[number] = text
    return vocab


def _added(
    tokenizer: dict[str, Any], vocab: Mapping[str, int], config: dict[str, Any], path: Path
) -> list[dict[str, Any]]:
    """The added tokens in their order: those of the file; then, as transformers does, those of
    the configuration, whose fields win, and the named ones that are in the vocabulary."""
    found: dict[str, dict[str, Any]] = {}
    in_config = config.get("added_tokens_decoder")
    listed = as_list(tokenizer.get("added_tokens"), path, "added_tokens")
    more = [
        token | {"id": int(number)} if isinstance(token, dict) and number.isdecimal() else token
        for number, token in (in_config.items() if isinstance(in_config, dict) else ())
    ]
    for token in [*listed, *more]:
        token = as_dict(token, path, "an entry of added_tokens")
        if not isinstance(token.get("content"), str) or not is_id(token.get("id")):
            raise ImageError(f"{path}: added token {shown(token)} has no text or no id")
        before = found.get(token["content"], token)
        if before["id"] != token["id"]:
            raise ImageError(
                f"{path}: tokens {before['id']} and {token['id']} are both"
                f" {token['content'][:40]!r}; every token needs a text of its own"
            )
        found[token["content"]] = before | token
    named = [config.get(name) for name in _NAMED]
    for name in _NAMED_LISTS:
        value = config.get(name)
        named += value if isinstance(value, list) else []
    for value in named:
        text = value.get("content") if isinstance(value, dict) else value
        if isinstance(text, str) and text not in found and text in vocab:
            fields = value if isinstance(value, dict) else {}
            fields = {"normalized": False} | fields | {"id": vocab[text], "content": text}
            found[text] = fields | {"special": True}
    return _numbered(list(found.values()), vocab, path)


def _numbered(
    added: list[dict[str, Any]], vocab: Mapping[str, int], path: Path
) -> list[dict[str, Any]]:
    """Checks that ids are those that the library gives: a token of the vocabulary keeps its
    own, the others are counted on."""
    text_of = {number: text for text, number in vocab.items()}
    last = -1
    for token in added:
        number, text = token["id"], token["content"]
        if text_of.get(number, text) != text:
            raise ImageError(
                f"{path}: id {number} is {text_of[number]!r} in model.vocab but"
                f" {text!r} in added_tokens"
            )
        expected = vocab.get(text)
        if expected is None:
            expected = last + 1 if last >= len(vocab) else len(vocab)
        if expected != number and text in vocab:
            raise ImageError(
                f"{path}: tokens {expected} and {number} are both {text[:40]!r};"
                " every token needs a text of its own, convert the model again"
            )
        if expected != number:
            raise ImageError(
                f"{path}: added token {text[:40]!r} has id {number}, but Hugging Face's library"
                f" counts it as {expected}; number added tokens on from the vocabulary's end"
            )
        last = max(last, expected)
    return added


def _tokens(
    vocab: Mapping[str, int], added: list[dict[str, Any]], path: Path, vocab_size: object
) -> tuple[list[bytes], list[int]]:
    """Texts and types by id. Ids that nothing names are padding: unused tokens."""
    by_id = {number: (text, NORMAL) for text, number in vocab.items()}
    for token in added:
        by_id[token["id"]] = token["content"], CONTROL if token.get("special") else USER_DEFINED
    count = max(by_id, default=-1) + 1
    if is_id(vocab_size) and isinstance(vocab_size, int):
        count = max(count, vocab_size)
    if count > 2 * len(by_id) + 65536:
        raise ImageError(f"{path}: ids go up to {count - 1} for {len(by_id)} tokens; damaged")
    texts, types = [], []
    for number in range(count):
        text, kind = by_id.get(number, (f"[PAD{number}]", UNUSED))
        texts.append(_encoded(text))
        types.append(kind)
    refuse_duplicates(texts, str(path))
    return texts, types


def _rules(
    added: list[dict[str, Any]], steps: tuple[Step, ...], traits: int, path: Path
) -> Rules:
    """The special tokens of the text as it is, and those of the normalized text."""
    raw: dict[bytes, Special] = {}
    normal: dict[bytes, Special] = {}
    for token in added:
        text, special = token["content"], bool(token.get("special"))
        flags = (
            (STRIP_LEFT if token.get("lstrip") else 0)
            | (STRIP_RIGHT if token.get("rstrip") else 0)
            | (SINGLE_WORD if token.get("single_word") else 0)
            | (SPECIAL if special else 0)
        )
        if not token.get("normalized", not special):
            if text:
                raw[_encoded(text)] = Special(_encoded(text), token["id"], flags)
            continue
        pattern = normalized(steps, text).encode(errors="replace")
        if text and not pattern:
            raise ImageError(
                f"{path}: nothing is left of added token {text[:40]!r} when it is normalized;"
                " it would be found everywhere"
            )
        if pattern in normal:
            raise ImageError(
                f"{path}: added tokens {normal[pattern].id} and {token['id']} are one text when"
                " normalized; Hugging Face's library takes either, by chance. Remove one"
            )
        if pattern:
            normal[pattern] = Special(pattern, token["id"], flags)
    return Rules(tuple(raw.values()), steps, tuple(normal.values()), traits)


def _merges(
    model: dict[str, Any], vocab: Mapping[str, int], is_bytes: bool, path: Path
) -> tuple[tuple[bytes, bytes], ...]:
    """Either "left right" or ["left", "right"]; of two equal ones the last counts."""
    pairs: dict[tuple[str, str], int] = {}
    for rank, merge in enumerate(as_list(model.get("merges"), path, "model.merges")):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(parts, list)
            or len(parts) != 2
            or not all(isinstance(part, str) and part for part in parts)
        ):
            raise ImageError(f"{path}: model.merges[{rank}] is {shown(merge)}, not two symbols")
        left, right = parts
        if is_bytes and not all(letter in BYTE_OF_LETTER for letter in left + right):
            raise ImageError(
                f"{path}: model.merges[{rank}] is not in the alphabet of byte-level BPE"
            )
        for text in (left, right, left + right):
            if text not in vocab:
                raise ImageError(
                    f"{path}: model.merges[{rank}] has {text[:40]!r}, a token that is not there"
                )
        pairs[left, right] = rank
    in_order = sorted(pairs, key=pairs.__getitem__)
    encode = _raw if is_bytes else _encoded
    return tuple((encode(left), encode(right)) for left, right in in_order)


def _raw(text: str) -> bytes:
    return bytes(BYTE_OF_LETTER[letter] for letter in text)
