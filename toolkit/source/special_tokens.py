"""The special tokens that a model's files name, as chat templates ask for them: "bos_token",
"pad_token", … and their texts. It knows no vocabulary; what a text's id is, others say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qedge.runtime.errors import ImageError
from qedge.toolkit.source.opened import read_json

_SETTINGS, _MAP = "tokenizer_config.json", "special_tokens_map.json"
_MORE = ("extra_special_tokens", "model_specific_special_tokens")  # by name, when an object
_GGUF_IDS = {
    "bos_token": "bos",
    "eos_token": "eos",
    "unk_token": "unknown",
    "sep_token": "seperator",  # as GGUF spells it
    "pad_token": "padding",
    "cls_token": "cls",
    "mask_token": "mask",
}


def of_folder(folder: Path) -> dict[str, str]:
    """Those of a Hugging Face folder, as transformers names them to a template; "" for one that
    the files say there is none of."""
    settings: Mapping[str, Any] = {}
    if (folder / _SETTINGS).is_file():
        settings = read_json(folder / _SETTINGS)
    if "added_tokens_decoder" not in settings and (folder / _MAP).is_file():
        settings = {**settings, **read_json(folder / _MAP)}  # of before that key
    found = {}
    for name, value in settings.items():
        if name.endswith("_token") and (value is None or _text(value) is not None):
            found[name] = _text(value) or ""  # named as none is not the same as not named
    for name in _MORE:
        more = settings.get(name)
        for key, value in (more if isinstance(more, dict) else {}).items():
            if (text := _text(value)) is not None:
                found[key] = text
    return found


def _text(value: Any) -> str | None:
    """The text of a token, which may be described by an object."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def of_gguf(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Those of a GGUF file; an id that no token has means none."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    found = {}
    for name, key in _GGUF_IDS.items():
        key = f"tokenizer.ggml.{key}_token_id"
        number = metadata.get(key)
        if number is None or not isinstance(tokens, list):
            continue
        if type(number) is not int:
            raise ImageError(f"{key} is {number!r:.60}, not a token's id")
        if 0 <= number < len(tokens):
            found[name] = bytes(tokens[number]).decode("utf-8", "replace")
    return found
