"""Token ids of texts, with the vocabulary of an image or of a GGUF (vocabulary-only ones
too)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from qedge.runtime._engine import EngineError, Vocab
from qedge.runtime.errors import ImageError
from qedge.runtime.image import VOCABULARY, open_image
from qedge.runtime.text import text_failure


def open_vocabulary(path: Path) -> Vocab:
    """The vocabulary of an image, of a GGUF or of a model folder. ImageError."""
    magic = b""
    try:
        if path.is_file():  # a pipe would be waited for
            with open(path, "rb") as file:
                magic = file.read(8)
        else:
            path.stat()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}; give an image or a GGUF file") from error
    if magic == b"QEDGEIMG":
        return Vocab(open_image(path).section(VOCABULARY) or b"")
    from qedge.toolkit.make import vocabulary_table

    if magic[:4] == b"GGUF":
        from qedge.toolkit.source.gguf_file import read_all_metadata
        from qedge.toolkit.source.vocabulary.gguf import from_gguf

        found = from_gguf(read_all_metadata(path))
    elif path.is_dir():
        from qedge.toolkit.source.vocabulary.hf import from_hf

        found = from_hf(path)
    else:
        raise ImageError(f"{path}: neither an image nor a GGUF file nor a model folder")
    return Vocab(vocabulary_table.pack(found))


def encode(path: Path, texts: Sequence[bytes], special: bool = False) -> list[list[int]]:
    """Ids of each text: no BOS or EOS added, bytes as they are. special: control tokens that
    are written in a text count; otherwise they are text."""
    vocab = open_vocabulary(path)
    found = []
    for number, text in enumerate(texts, 1):
        try:
            found.append(vocab.encode(text, special))
        except EngineError as error:
            raise text_failure(f"text {number}", len(text), error) from None
    return found
