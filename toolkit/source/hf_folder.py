"""A Hugging Face folder: config.json, safetensors and a tokenizer, as transformers writes them.

Tensors get GGUF's names.  Rows of Q and K move from the half-split rotary order (i, i + half)
to adjacent pairs (2i, 2i + 1), as llama.cpp's convert_hf_to_gguf.py does for Llama.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from qedge.runtime.errors import ImageError
from qedge.toolkit.source import special_tokens
from qedge.toolkit.source.hf_config import read_config
from qedge.toolkit.source.hf_names import IGNORED, canonical, plain_names
from qedge.toolkit.source.locate import names_in
from qedge.toolkit.source.model import (
    ModelConfig,
    SourceModel,
    SourceTensor,
    check_config,
    check_tensors,
)
from qedge.toolkit.source.opened import SourceFile, read_file, read_json
from qedge.toolkit.source.safetensors_file import ITEM_BYTES, StoredArray, read_table
from qedge.toolkit.source.strangers import refuse_names, refuse_type, refuse_weights

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TEMPLATE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Everything that may shape the result, beside *.json and the weights.
OTHER_FILES = (TEMPLATE, "tokenizer.model")
SHARD = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.safetensors", re.ASCII | re.DOTALL)


def open_hf_folder(folder: Path) -> SourceModel:
    """The model of a folder; ImageError names the file and the fact that does not fit."""
    from qedge.toolkit.source.vocabulary.hf import from_hf

    config = read_config(folder)
    check_config(config, folder / "config.json")
    opened = tuple(SourceFile(path, empty=True) for path in _files(folder, _shards(folder)))
    stored = _stored([file for file in opened if file.path.name.endswith(".safetensors")])
    refuse_names((name for name, _ in stored), folder)
    plain = plain_names(name for name, _ in stored)
    tensors: dict[str, SourceTensor] = {}
    for name, array in stored:
        if IGNORED.fullmatch(plain[name]):
            continue
        tensor = _tensor(name, plain[name], array, config)
        if tensor.name in tensors:
            raise ImageError(
                f"{tensor.path}: {name} is in another shard too, or under another name"
            )
        tensors[tensor.name] = tensor
    if config.tied:
        tensors.pop("output.weight", None)  # transformers ties it whatever the file says
    ordered = check_tensors(config, tensors, folder)
    words = from_hf(folder)
    if len(words.tokens) > config.vocab_size:
        raise ImageError(
            f"{folder}: the tokenizer has {len(words.tokens)} tokens, "
            f"the embedding {config.vocab_size} rows; take both from the same model"
        )
    template = read_chat_template(folder)
    named = special_tokens.of_folder(folder)
    return SourceModel(folder, config, words, template, ordered, opened, named)


def _stored(shards: Iterable[SourceFile]) -> list[tuple[str, StoredArray]]:
    """(name, array) of all shards, in their order."""
    return [pair for shard in shards for pair in read_table(shard).items()]


def read_chat_template(folder: Path) -> str | None:
    """chat_template.jinja, else tokenizer_config.json's: text, or the list's "default"."""
    file = folder / TEMPLATE
    if file.is_file():
        try:
            return read_file(file).decode("utf-8")
        except UnicodeDecodeError as error:
            raise ImageError(f"{file}: is not UTF-8: {error}") from None
    settings = folder / TOKENIZER_CONFIG
    if not settings.is_file():
        return None
    template = read_json(settings).get("chat_template")
    if isinstance(template, list):
        named = {
            item.get("name"): item.get("template")
            for item in template
            if isinstance(item, dict) and isinstance(item.get("name"), str)
        }
        template = named.get("default")
    if template is not None and not isinstance(template, str):
        raise ImageError(f"{settings}: chat_template is neither text nor a list of named texts")
    try:
        (template or "").encode()
    except UnicodeEncodeError as error:
        raise ImageError(
            f"{settings}: chat_template holds half of a surrogate pair at letter "
            f"{error.start}, which is not text; correct it there"
        ) from None
    return template


def _shards(folder: Path) -> list[Path]:
    """The files of weights, as transformers looks for them; or the only ones that there are."""
    names = names_in(folder)
    if WEIGHTS in names:
        return [folder / WEIGHTS]
    if INDEX in names:
        return [folder / name for name in _indexed(folder, set(names))]
    found = [name for name in names if name.endswith(".safetensors")]
    found = [name for name in found if not name.startswith("consolidated")]
    parts = [match for name in found if (match := SHARD.fullmatch(name))]
    if len(found) == 1 and not parts:
        return [folder / found[0]]
    if parts and len(parts) == len(found):  # the index was not downloaded; it says no more
        count = int(parts[0][3])
        wanted = [
            f"{parts[0][1]}-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)
        ]
        _refuse_missing(folder, wanted, set(names))
        return [folder / name for name in wanted]
    refuse_weights(folder, names)


def _indexed(folder: Path, there: set[str]) -> list[str]:
    """The names of the shards that an index lists, sorted."""
    places = read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ImageError(f"{folder / INDEX}: weight_map is missing or empty")
    names = set()
    for name in places.values():
        # A file of this folder and nothing else: an index must not lead out of it.
        if not isinstance(name, str) or not name.isprintable() or Path(name).name != name:
            raise ImageError(f"{folder / INDEX}: {name!r:.80} is not a file name of a shard")
        if not name.endswith(".safetensors"):
            raise ImageError(f"{folder / INDEX}: {name!r:.80} is not a safetensors file")
        names.add(name)
    _refuse_missing(folder, sorted(names), there)
    return sorted(names)


def _refuse_missing(folder: Path, wanted: list[str], there: set[str]) -> None:
    missing = [name for name in wanted if name not in there]
    if missing:
        raise ImageError(
            f"{folder / missing[0]}: there is no such file ({len(wanted) - len(missing)} of "
            f"{len(wanted)} shards are here); download {', '.join(missing[:4])}"
            f"{' and the others' if len(missing) > 4 else ''} too"
        )


def _tensor(name: str, plain: str, stored: StoredArray, config: ModelConfig) -> SourceTensor:
    """The tensor under GGUF's name and in its row order, where it lies in the file."""
    path = stored.file.path
    item_bytes = ITEM_BYTES.get(stored.type_name)
    if item_bytes is None:
        refuse_type(name, stored.type_name, path)
    if len(stored.shape) not in (1, 2) or 0 in stored.shape:
        raise ImageError(f"{path}: {name:.80} has shape {stored.shape}, not a matrix")
    columns = stored.shape[-1]
    rows = stored.shape[0] if len(stored.shape) == 2 else 1
    place = stored.rows(rows, columns * item_bytes)
    order = None
    rotary = plain.endswith((".self_attn.q_proj.weight", ".self_attn.k_proj.weight"))
    if rotary and rows % config.head_size == 0:  # else check_tensors refuses the height
        order = pair_order(rows, config.head_size)
    return SourceTensor(
        canonical(plain), rows, columns, stored.type_name, place, path, row_order=order
    )


def pair_order(rows: int, head_size: int) -> npt.NDArray[np.intp]:
    """For each row in adjacent-pair order, the row in half-split order it comes from."""
    halves = np.arange(rows, dtype=np.intp).reshape(rows // head_size, 2, head_size // 2)
    return halves.swapaxes(1, 2).reshape(-1)


def _files(folder: Path, shards: list[Path]) -> tuple[Path, ...]:
    """What the model's hash covers, sorted by name."""
    others = [folder / name for name in OTHER_FILES if (folder / name).is_file()]
    found = [*folder.glob("*.json"), *shards, *others]
    return tuple(sorted(found, key=lambda file: file.name))
