"""What an image holds, as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from qedge.runtime.image import KV_NAMES, SECTIONS, open_image, verify_image
from qedge.toolkit.quantize import TYPES

_TYPE_NAMES = {code: name for name, code in TYPES.items()}


def describe(path: Path, verify: bool = False) -> dict[str, Any]:
    """Sections, plan, configuration, tensors and provenance; with verify every byte is checked.

    ImageError when anything is broken."""
    image = open_image(path)
    leaves = verify_image(image, path) if verify else None
    tensors: dict[str, int] = {}  # bytes
    for _, _, kind, rows, group, _, _, size in image.tensors():
        layout = f" in tiles of {rows} rows by {group}" if rows > 1 else ""
        name = _TYPE_NAMES[kind] + layout
        tensors[name] = tensors.get(name, 0) + size
    try:
        provenance = json.loads(image.section(9) or b"{}")
    except (ValueError, RecursionError):
        provenance = {}
    if not isinstance(provenance, dict):
        provenance = {}
    plan = image.plan
    return {
        "image": str(path),
        "image_id": image.id.hex(),
        "bytes": image.bytes,
        "verified": True if leaves is not None else None,  # None: not checked
        "plan": {**plan, "kv": KV_NAMES[plan["kv"]]},
        "config": image.config,
        "sections": {
            name: size
            for kind, name in SECTIONS.items()
            if (size := image.section_bytes(kind)) is not None
        },
        "tensors": tensors,
        "provenance": provenance,
    }
