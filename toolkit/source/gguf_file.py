"""A Llama in a GGUF file, or in the parts of a split one: its tensors where they lie.

Tensor names are those of llama.cpp's `llama` architecture, split files as llama-gguf-split
makes them: NAME-00001-of-00003.gguf has the metadata, and every part has tensors of its own
(the first may have none).  The file format is gguf_header.py's matter, keys gguf_config.py's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qedge.runtime.errors import ImageError
from qedge.toolkit.source import blocks, special_tokens
from qedge.toolkit.source.gguf_config import ARCHITECTURE, ROPE_FACTORS, Keys
from qedge.toolkit.source.gguf_header import Header, TensorEntry, read_header, read_metadata
from qedge.toolkit.source.locate import split_parts
from qedge.toolkit.source.model import SourceModel, SourceTensor, check_config, check_tensors
from qedge.toolkit.source.opened import Stretch

__all__ = ["open_gguf", "read_all_metadata", "read_metadata"]

SPLIT_NUMBER, SPLIT_COUNT, SPLIT_TENSORS = "split.no", "split.count", "split.tensors.count"
# general.type of files that are no model, and what to do with them.
NO_MODELS = {
    "adapter": "a LoRA adapter; merge it into its base model first (llama-export-lora)",
    "mmproj": "the vision part of a model; give the text model's GGUF",
    "imatrix": "an importance matrix; give the model's GGUF",
}


def open_gguf(path: Path) -> SourceModel:
    """A GGUF of the `llama` architecture; ImageError when it is another or does not add up.

    path  the file; of a split one any part, when all parts lie in its folder"""
    from qedge.toolkit.source.vocabulary.gguf import from_gguf

    headers = _headers(path)
    metadata = headers[0].metadata
    _check_kind(metadata, path)
    if not any(header.tensors for header in headers):
        raise ImageError(f"{path}: holds a vocabulary and no tensors; give the whole model")
    tensors: dict[str, SourceTensor] = {}
    for header in headers:
        for entry in header.tensors:
            if entry.name in tensors:
                raise ImageError(
                    f"{header.file.path}: {entry.name} is in another part too; the parts "
                    "belong to different models"
                )
            tensors[entry.name] = _tensor(entry, header)
    factors = tensors.pop(ROPE_FACTORS, None)
    config = Keys(metadata, path).config(tensors, factors)
    check_config(config, path)
    ordered = check_tensors(config, tensors, path)
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not (isinstance(template, str) and _is_utf8(template)):
        raise ImageError(f"{path}: tokenizer.chat_template is not text in UTF-8")
    try:
        words = from_gguf(metadata)
        named = special_tokens.of_gguf(metadata)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    opened = tuple(header.file for header in headers)
    return SourceModel(path, config, words, template, ordered, opened, named)


def read_all_metadata(path: Path) -> dict[str, object]:
    """The metadata of a GGUF, for any part of a split one that of the first."""
    metadata = read_metadata(path)
    number, _ = _place(metadata, path)
    if not number:
        return metadata
    first = _names(path, metadata)[0]
    return read_metadata(first)


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_kind(metadata: dict[str, object], path: Path) -> None:
    kind = metadata.get("general.type", "model")
    if not isinstance(kind, str):
        raise ImageError(f"{path}: general.type is not text; the file is damaged")
    if kind in NO_MODELS:
        raise ImageError(f"{path}: is {NO_MODELS[kind]}")
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture != ARCHITECTURE:
        raise ImageError(
            f"{path}: the architecture is {architecture!r:.60}; "
            f"only {ARCHITECTURE!r} is supported"
        )


def _place(metadata: dict[str, object], path: Path) -> tuple[int, int]:
    """(number from 0, count) of a part; (0, 0) for a file that is whole."""
    found = []
    for key in (SPLIT_NUMBER, SPLIT_COUNT):
        value = metadata.get(key, 0)
        if type(value) is not int or value < 0:
            raise ImageError(f"{path}: {key} is {value!r:.60}, not a count")
        found.append(value)
    number, count = found
    return (number, count) if count > 1 else (0, 0)


def _names(path: Path, metadata: dict[str, object]) -> tuple[Path, ...]:
    """The paths of all parts, which are all there. ImageError names those that are not."""
    number, count = _place(metadata, path)
    names = split_parts(path)
    if names is None or len(names) != count or names[number] != path:
        raise ImageError(
            f"{path}: is part {number + 1} of {count} of a split GGUF, and its name does not "
            f"say so; name the parts NAME-{number + 1:05d}-of-{count:05d}.gguf and so on, as "
            "they were, or make one file of them (llama-gguf-split --merge)"
        )
    missing = [name.name for name in names if not name.exists()]
    if missing:
        shown = ", ".join(missing[:4]) + (" and others" if len(missing) > 4 else "")
        raise ImageError(
            f"{path}: is part {number + 1} of {count}; download the others into {path.parent} "
            f"too: {shown} {'is' if len(missing) == 1 else 'are'} missing"
        )
    return names


def _headers(path: Path) -> list[Header]:
    """The headers of all parts in their order; of a whole file its own."""
    header = read_header(path)
    _, count = _place(header.metadata, path)
    if not count:
        return [header]
    names = _names(path, header.metadata)
    headers = [header if name == path else read_header(name) for name in names]
    first = headers[0].metadata
    total = first.get(SPLIT_TENSORS, sum(len(part.tensors) for part in headers))
    for number, (name, part) in enumerate(zip(names, headers)):
        if _place(part.metadata, name) != (number, count):
            raise ImageError(
                f"{name}: is not part {number + 1} of {count} by what it holds; the parts were "
                "renamed, or belong to different models: download them again"
            )
        for key, value in part.metadata.items():
            agrees = key == SPLIT_NUMBER or np.array_equal(value, first.get(key, value))  # type: ignore[arg-type]
            if not agrees:
                raise ImageError(
                    f"{name}: {key} is {value!r:.60}, in {names[0].name} it is "
                    f"{first[key]!r:.60}; the parts belong to different models"
                )
    found = sum(len(part.tensors) for part in headers)
    if found != total:
        raise ImageError(
            f"{path}: the {count} parts hold {found} tensors, the first says {total!r:.20}; "
            "they belong to different models, or one is damaged: download them again"
        )
    return headers


def _tensor(entry: TensorEntry, header: Header) -> SourceTensor:
    """The tensor in place; ImageError unless its type is known and it lies inside the file."""
    file = header.file
    path = file.path
    try:
        source_type = blocks.type_name(entry.type_number)
        weights, block_bytes = blocks.block_shape(source_type)
    except KeyError as unknown:
        raise ImageError(
            f"{path}: {entry.name} has tensor type {unknown.args[0]}, which cannot be read; "
            "use a Q4_0 to Q8_0, K-quant, IQ, F16, BF16, F32 or F64 file"
        ) from None
    shape = list(entry.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    if len(shape) > 2 or 0 in shape:
        raise ImageError(f"{path}: {entry.name} has shape {entry.shape}, not a matrix")
    columns = shape[0]
    rows = shape[1] if len(shape) == 2 else 1
    if columns % weights:
        raise ImageError(
            f"{path}: {entry.name} has rows of {columns} weights, "
            f"{source_type} needs a multiple of {weights}"
        )
    row_bytes = columns // weights * block_bytes
    start = header.data_offset + entry.offset
    stop = start + rows * row_bytes
    if stop > file.size:
        raise ImageError(
            f"{path}: cut short or damaged: {entry.name} lies at bytes {start} to {stop}, "
            f"the file ends at {file.size}; fetch it again"
        )
    stored = Stretch(file, start, rows, row_bytes)
    return SourceTensor(entry.name, rows, columns, source_type, stored, path)
