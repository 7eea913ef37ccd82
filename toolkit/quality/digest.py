"""What an image is of: a hash of the model's files, and one of what makes images of them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path

from qedge.runtime import _engine
from qedge.toolkit.files import sha256_of
from qedge.toolkit.source import locate


@cache
def made_by() -> str:
    """A hash of whatever decides an image's bytes beside the model: quantizers, packer,
    readers, engine."""
    digest = hashlib.sha256(version("qedge").encode())
    for room in ("quant", "make", "source"):
        place = Path(str(resources.files(f"qedge.toolkit.{room}")))
        for path in sorted(place.rglob("*")):
            if path.suffix in (".py", ".so", ".pyd"):
                digest.update(path.relative_to(place).as_posix().encode() + b"\0")
                digest.update(bytes.fromhex(sha256_of(path)))
    digest.update(bytes.fromhex(sha256_of(Path(_engine.__file__))))
    return digest.hexdigest()


def model_digest(model: Path, tokenizer: Path | None = None) -> str:
    """A hash of all files of a model. ImageError."""
    digest = hashlib.sha256()
    for file in [*locate.model_files(model), *([tokenizer] if tokenizer else [])]:
        try:
            digest.update(file.name.encode("utf-8", "surrogateescape") + b"\0")
            digest.update(bytes.fromhex(sha256_of(file)))
        except OSError as error:
            raise locate.unreadable(file, error) from error
    return digest.hexdigest()
