"""Reads the vocabulary of a Hugging Face folder: tokenizer.json and the small files beside it.

A tokenizer.json is a program in JSON; only the shapes that Llama-family models use are known,
and any other is refused by name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.vocabulary_value import (
    BYTE,
    BYTE_NAMES,
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

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
_REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
# A pre-tokenizer as the steps of its sequence, by `_step`.
_SHAPES = {
    ("bytes+words",): "gpt-2",
    ("digits", "bytes+words"): "smollm",
    (_CONTRACTIONS + "\\p{N}{1,3}" + _REST, "bytes"): "llama3",
    (_CONTRACTIONS + "\\p{N}" + _REST, "bytes"): "qwen2",
    (
        "[\r\n]",
        "\\s?\\p{L}+",
        "\\s?\\p{P}+",
        "[一-龥ࠀ-一가-퟿]+",
        "digits",
        "bytes",
    ): "deepseek-coder",
}
_MARK = "\u2581"
ID_LIMIT = 1 << 24


def from_hf(folder: Path) -> Vocabulary:
    """The vocabulary of a folder with tokenizer.json; tokenizer_config.json, config.json and
    generation_config.json are read when they are there."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    tokenizer = _json(path, required=True)
    config = _json(folder / "tokenizer_config.json")
    model_config = _json(folder / "config.json")
    generation = _json(folder / "generation_config.json")
    model = _dict(tokenizer.get("model"), path, "model")
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ImageError(f"{path}: model.type is {kind!r}; known is 'BPE'")
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise ImageError(f"{path}: model.{name} is {model[name]!r}; known is none")
    is_spm = bool(model.get("byte_fallback"))
    pretokenizer = "" if is_spm else _pretokenizer(tokenizer, path)
    add_space_prefix = _space_prefix(tokenizer, path) if is_spm else False

    texts, types = _tokens(tokenizer, model, path, model_config.get("vocab_size"))
    stripped = _added(tokenizer, path)
    number_of = {text: number for number, text in enumerate(texts)}
    if is_spm:
        for byte_name in BYTE_NAMES:
            number = number_of.get(byte_name)
            if number is not None and types[number] == NORMAL:
                types[number] = BYTE
    unknown = _named_id(model.get("unk_token"), number_of, path, "model.unk_token")
    if unknown is not None and is_spm:
        types[unknown] = UNKNOWN
    stops = mark_by_text(texts, types)
    eos = _named_id(config.get("eos_token"), number_of, path, "eos_token")
    for file in (generation, model_config):
        ids = _ids(file.get("eos_token_id"), len(texts), path)
        stops |= set(ids)
        eos = ids[0] if eos is None and ids else eos
    bos = _named_id(config.get("bos_token"), number_of, path, "bos_token")
    template = _template_bos(tokenizer, number_of, path)
    if bos is None:
        bos = template
    if bos is None:
        bos = next(iter(_ids(model_config.get("bos_token_id"), len(texts), path)), None)
    merges = _merge_pairs(model, path)
    add_bos = config.get("add_bos_token")
    return Vocabulary(
        kind="spm" if is_spm else "bpe",
        pretokenizer=pretokenizer,
        tokens=tuple(
            text
            if is_spm or type_ in (CONTROL, UNKNOWN, USER_DEFINED)
            else raw_bytes(text) or text
            for text, type_ in zip(texts, types, strict=True)
        ),
        types=tuple(types),
        merges=() if is_spm else _raw_merges(merges, path),
        scores=_scores(merges, number_of, path) if is_spm else (),
        bos=bos,
        eos=eos,
        unknown=unknown,
        stops=tuple(sorted(stops | ({eos} if eos is not None else set()))),
        add_bos=template is not None if add_bos is None else bool(add_bos),
        add_eos=bool(config.get("add_eos_token")),
        add_space_prefix=add_space_prefix,
        ignore_merges=bool(model.get("ignore_merges")),
        strips_left=frozenset(at for at, token in stripped.items() if token.get("lstrip")),
        strips_right=frozenset(at for at, token in stripped.items() if token.get("rstrip")),
    )


def _json(path: Path, *, required: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        if required:
            raise ImageError(f"{path}: no such file; download the model's tokenizer") from None
        return {}
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; make it readable") from None
    except (ValueError, RecursionError):
        raise ImageError(f"{path}: is not JSON; it is damaged, download it again") from None
    return _dict(value, path, "the file")


def _dict(value: object, path: Path, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ImageError(f"{path}: {what} is no JSON object; the file is damaged")
    return value


def _list(value: object, path: Path, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"{path}: {what} is no JSON array; the file is damaged")
    return value


def _step(step: Any) -> str:
    """One step of a pre-tokenizer by name; a Split is its expression."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return "bytes+words" if step.get("use_regex", True) else "bytes"
    if kind == "Digits" and step.get("individual_digits"):
        return "digits"
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        pattern = step.get("pattern")
        regex = (
            pattern.get("Regex", pattern.get("String")) if isinstance(pattern, dict) else None
        )
        if isinstance(regex, str):
            return "[\r\n]" if regex == "[\\r\\n]" else regex
    return "unknown"


def _pretokenizer(tokenizer: dict[str, Any], path: Path) -> str:
    normalizer = tokenizer.get("normalizer")
    # NFC is left to the writer of the text, as llama.cpp leaves it.
    empty = {"type": "Sequence", "normalizers": []}
    if normalizer not in (None, {"type": "NFC"}, empty):
        raise ImageError(
            f"{path}: normalizer {_shown(normalizer)} is not known for byte-level BPE;"
            " known are none and NFC"
        )
    found = tokenizer.get("pre_tokenizer")
    steps = [found]
    if isinstance(found, dict) and found.get("type") == "Sequence":
        steps = _list(found.get("pretokenizers"), path, "pre_tokenizer.pretokenizers")
    shape = tuple(_step(step) for step in steps)
    if shape not in _SHAPES:
        raise ImageError(
            f"{path}: pre_tokenizer {_shown(found)} is not known; known are those of"
            f" {', '.join(_SHAPES.values())}. Convert the model to GGUF with llama.cpp instead"
        )
    return _SHAPES[shape]


def _space_prefix(tokenizer: dict[str, Any], path: Path) -> bool:
    """Whether a byte-fallback tokenizer writes a space before the text."""
    normalizer = tokenizer.get("normalizer")
    pretokenizer = tokenizer.get("pre_tokenizer")
    steps = [normalizer] if isinstance(normalizer, dict) else []
    if steps and steps[0].get("type") == "Sequence":
        steps = _list(steps[0].get("normalizers"), path, "normalizer.normalizers")
    prepend = {"type": "Prepend", "prepend": _MARK}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _MARK}
    if pretokenizer is None and steps in ([replace], [prepend, replace]):
        return prepend in steps
    if (
        isinstance(pretokenizer, dict)
        and not steps
        and pretokenizer.get("type") == "Metaspace"
        and pretokenizer.get("replacement", _MARK) == _MARK
        and not pretokenizer.get("split")
    ):
        scheme = pretokenizer.get("prepend_scheme")
        prepends = pretokenizer.get("add_prefix_space", True)
        return bool(prepends) if scheme is None else scheme in ("always", "first")
    raise ImageError(
        f"{path}: normalizer {_shown(normalizer)} with pre_tokenizer {_shown(pretokenizer)} is"
        " not known; known are Llama-2's (a space before the text, spaces as U+2581)"
    )


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else text[:200] + "..."


def _added(tokenizer: dict[str, Any], path: Path) -> dict[int, dict[str, Any]]:
    added = {}
    for token in _list(tokenizer.get("added_tokens"), path, "added_tokens"):
        token = _dict(token, path, "an entry of added_tokens")
        if not isinstance(token.get("content"), str) or not _is_id(token.get("id")):
            raise ImageError(f"{path}: added token {_shown(token)} has no text or no id")
        added[token["id"]] = token
    return added


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < ID_LIMIT


def _tokens(
    tokenizer: dict[str, Any], model: dict[str, Any], path: Path, vocab_size: object
) -> tuple[list[bytes], list[int]]:
    """Texts and types by id. Ids that nothing names are padding: unused tokens."""
    by_id: dict[int, tuple[str, int]] = {}
    for text, number in _dict(model.get("vocab"), path, "model.vocab").items():
        if not _is_id(number):
            raise ImageError(f"{path}: model.vocab[{text!r}] is {number!r}, no id")
        if number in by_id:
            raise ImageError(f"{path}: {by_id[number][0]!r} and {text!r} both have id {number}")
        by_id[number] = text, NORMAL
    for number, token in _added(tokenizer, path).items():
        if number in by_id and by_id[number][0] != token["content"]:
            raise ImageError(
                f"{path}: id {number} is {by_id[number][0]!r} in model.vocab but"
                f" {token['content']!r} in added_tokens"
            )
        by_id[number] = token["content"], CONTROL if token.get("special") else USER_DEFINED
    count = max(by_id, default=-1) + 1
    if _is_id(vocab_size) and isinstance(vocab_size, int):
        count = max(count, vocab_size)
    if count > 2 * len(by_id) + 65536:
        raise ImageError(f"{path}: ids go up to {count - 1} for {len(by_id)} tokens; damaged")
    texts, types = [], []
    for number in range(count):
        text, kind = by_id.get(number, (f"[PAD{number}]", UNUSED))
        texts.append(text.encode(errors="replace"))
        types.append(kind)
    refuse_duplicates(texts, str(path))
    return texts, types


def _merge_pairs(model: dict[str, Any], path: Path) -> list[tuple[bytes, bytes]]:
    """Either "left right" or ["left", "right"]."""
    pairs = []
    for rank, merge in enumerate(_list(model.get("merges"), path, "model.merges")):
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if (
            not isinstance(parts, list)
            or len(parts) != 2
            or not all(isinstance(part, str) and part for part in parts)
        ):
            raise ImageError(
                f"{path}: model.merges[{rank}] is {_shown(merge)}, not two symbols"
            )
        pairs.append((parts[0].encode(errors="replace"), parts[1].encode(errors="replace")))
    return pairs


def _raw_merges(
    pairs: list[tuple[bytes, bytes]], path: Path
) -> tuple[tuple[bytes, bytes], ...]:
    merges = []
    for rank, (left, right) in enumerate(pairs):
        raw = raw_bytes(left), raw_bytes(right)
        if raw[0] is None or raw[1] is None:
            raise ImageError(
                f"{path}: model.merges[{rank}] is not in the alphabet of byte-level BPE"
            )
        merges.append((raw[0], raw[1]))
    return tuple(merges)


def _scores(
    pairs: list[tuple[bytes, bytes]], number_of: dict[bytes, int], path: Path
) -> tuple[float, ...]:
    """A token's score is that of the first merge that makes it; what none makes has none.

    Merges of such files were written from the scores of a SentencePiece model, all the pairs of
    a better token before those of a worse one, so the order is the same.
    """
    scores = [float("-inf")] * len(number_of)
    for rank, (left, right) in enumerate(pairs):
        number = number_of.get(left + right)
        if number is None:
            raise ImageError(f"{path}: model.merges[{rank}] makes a token that is not there")
        scores[number] = max(scores[number], -float(rank))
    return tuple(scores)


def _named_id(value: object, number_of: dict[bytes, int], path: Path, what: str) -> int | None:
    """The id of a token given by its text, or by an object with `content`."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None
    number = number_of.get(text.encode(errors="replace")) if isinstance(text, str) else None
    if number is None:
        raise ImageError(f"{path}: {what} {_shown(value)} is not in the vocabulary")
    return number


def _ids(value: object, count: int, path: Path) -> list[int]:
    values: list[Any] = value if isinstance(value, list) else [] if value is None else [value]
    for number in values:
        if not _is_id(number) or number >= count:
            raise ImageError(
                f"{path.parent}: a configuration has token id {number!r}, but there are"
                f" {count} tokens; its files belong to different models"
            )
    return values


def _template_bos(
    tokenizer: dict[str, Any], number_of: dict[bytes, int], path: Path
) -> int | None:
    """The special token that the post-processor's template begins with."""
    processor = tokenizer.get("post_processor")
    steps: list[Any] = [processor]
    if isinstance(processor, dict) and processor.get("type") == "Sequence":
        steps = _list(processor.get("processors"), path, "post_processor.processors")
    for step in steps:
        single = step.get("single") if isinstance(step, dict) else None
        if isinstance(single, list) and single and step.get("type") == "TemplateProcessing":
            first = single[0].get("SpecialToken") if isinstance(single[0], dict) else None
            if isinstance(first, dict) and isinstance(first.get("id"), str):
                return number_of.get(first["id"].encode(errors="replace"))
    return None
