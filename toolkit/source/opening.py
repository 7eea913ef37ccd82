"""Opens what somebody gives for a model: decides by content which reader it is for."""

from __future__ import annotations

from pathlib import Path

from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.source import gguf_header
from qedge.toolkit.source.locate import locate
from qedge.toolkit.source.model import SourceModel
from qedge.toolkit.source.opened import SourceFile
from qedge.toolkit.source.strangers import refuse_magic

START_BYTES = 32


def open_source(path: Path, tokenizer: Path | None = None) -> SourceModel:
    """Open a model, lazily: its files stay open, and weights are read when they are asked for.

    path       a GGUF file (any part of a split one), a folder with config.json, a folder of the
               hub's cache, a folder around one GGUF, or a llama2.c checkpoint (.bin)
    tokenizer  the tokenizer.bin of a llama2.c checkpoint; the others carry their own

    ImageError when the model is damaged, incomplete or of another kind; UsageError when
    `tokenizer` is missing or out of place.
    """
    path = locate(Path(path))
    if path.is_dir():
        from qedge.toolkit.source.hf_folder import open_hf_folder

        _refuse_tokenizer(path, tokenizer)
        return open_hf_folder(path)
    file = SourceFile(path)
    start = file.read(0, min(START_BYTES, file.size))
    refuse_magic(path, start)
    if start.startswith(gguf_header.MAGIC):
        from qedge.toolkit.source.gguf_file import open_gguf

        _refuse_tokenizer(path, tokenizer)
        return open_gguf(path)
    if path.suffix == ".bin":
        from qedge.toolkit.source.llama2c import open_llama2c, read_config

        if tokenizer is None:
            read_config(path)  # a damaged checkpoint is the first thing to say
            raise UsageError(
                f"{path}: a llama2.c checkpoint carries no tokenizer; "
                "give its tokenizer.bin with --tokenizer FILE"
            )
        return open_llama2c(path, Path(tokenizer))
    if path.suffix in (".safetensors", ".json"):
        raise ImageError(f"{path}: is one file of a folder; give the folder {path.parent}")
    raise ImageError(
        f"{path}: begins with {start[:4]!r}; a model is a GGUF file, a folder with config.json "
        "or a llama2.c checkpoint (.bin)"
    )


def _refuse_tokenizer(path: Path, tokenizer: Path | None) -> None:
    if tokenizer is not None:
        raise UsageError(f"{path}: carries its own tokenizer; leave out {tokenizer}")
