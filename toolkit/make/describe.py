"""What an image holds, or a model that one could be made of, as plain values."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qedge.runtime._engine import SECTIONS, TYPES
from qedge.runtime.errors import ImageError
from qedge.runtime.image import KV_NAMES, PROVENANCE, open_image, verify_image
from qedge.toolkit.source.gguf_file import read_all_metadata
from qedge.toolkit.source.gguf_header import MAGIC
from qedge.toolkit.source.locate import FIRST_BYTES, refuse_placeholder
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opening import open_source

_TYPE_NAMES = {code: name for name, code in TYPES.items()}
# What of a GGUF's metadata says what it is, when it is no model that can be read.
_TELLING = ("general.", "split.")


def describe(path: Path, verify: bool = False) -> dict[str, Any]:
    """Sections, plan, configuration, tensors and provenance of an image; with verify every byte
    is checked. Of a model's file or folder: files, configuration, types, vocabulary.

    ImageError when anything is broken."""
    start = _first_bytes(path)
    refuse_placeholder(path, start)
    if path.is_dir() or start.startswith(MAGIC):
        return _describe_model(path, verify)
    image = open_image(path)
    leaves = verify_image(image, path) if verify else None
    tensors: dict[str, int] = {}  # bytes
    for _, _, kind, rows, _, _, count in image.tensors():
        layout = f" in groups of {rows} rows" if rows > 1 else ""
        name = _TYPE_NAMES[kind] + layout
        tensors[name] = tensors.get(name, 0) + count
    try:
        provenance = json.loads(image.section(PROVENANCE) or b"{}")
    except (ValueError, RecursionError):
        provenance = {}
    if not isinstance(provenance, dict):
        provenance = {}
    plan, trailer = image.plan, image.read(image.bytes, 16)
    signed = trailer[:8] == b"QEDGESIG"  # SPEC 3.8; whose it is only a board with a key knows
    return {
        "image": str(path),
        "image_id": image.id.hex(),
        "bytes": image.bytes,
        "signed": signed,
        "security_counter": int.from_bytes(trailer[12:16], "little") if signed else 0,
        "verified": True if leaves is not None else None,  # None: not checked
        "plan": {**plan, "kv": KV_NAMES[plan["kv"]]},
        "config": image.config,
        "sections": {
            name: size
            for name, kind in SECTIONS.items()
            if (size := image.section_bytes(kind)) is not None
        },
        "tensors": tensors,
        "provenance": provenance,
    }


def _first_bytes(path: Path) -> bytes:
    """Of a regular file; none when it cannot be read: opening it says why."""
    try:
        if not path.is_file():
            return b""
        with path.open("rb") as file:
            return file.read(FIRST_BYTES)
    except OSError:
        return b""


def _describe_model(path: Path, verify: bool) -> dict[str, Any]:
    try:
        source = open_source(path)
    except ImageError as error:
        return _describe_stranger(path, error)
    if verify:
        _read_all(source)
    config = {name: value for name, value in asdict(source.config).items() if value is not None}
    vocabulary = source.vocabulary
    return {
        "model": str(source.path),
        "sha256": source.sha256(),
        "bytes": sum(file.size for file in source.opened),
        "verified": True if verify else None,  # every weight is finite
        "image": "none yet: `qedge build` makes one, `qedge advise` says of which type",
        "files": {file.path.name: file.size for file in source.opened},
        "config": {**config, "longest_context": source.config.longest},
        "tensors": _stored_bytes(source),
        "vocabulary": {
            "tokens": len(vocabulary.tokens),
            "chat_template": source.chat_template is not None,
        },
    }


def _read_all(source: SourceModel) -> None:
    for tensor in source.tensors.values():
        for start, stop in tensor.spans():
            tensor.read(start, stop)
    source.check_unchanged()


def _stored_bytes(source: SourceModel) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in source.tensors.values():
        rows, row_bytes = tensor.stored.shape
        found[tensor.source_type] = found.get(tensor.source_type, 0) + rows * row_bytes
    return found


def _describe_stranger(path: Path, error: ImageError) -> dict[str, Any]:
    """What a GGUF says that it is, when no image can be made of it. ImageError of anything
    else, and of a damaged one."""
    if not path.is_file():
        raise error
    metadata = read_all_metadata(path)
    told = {
        key: value
        for key, value in metadata.items()
        if key.startswith(_TELLING) and isinstance(value, (str, bool, int, float))
    }
    return {
        "model": str(path),
        "bytes": path.stat().st_size,
        "image": f"none can be made: {error}",
        "metadata": told,
    }
