"""Model files of others, read as one value: GGUF, Hugging Face folders, llama2.c checkpoints.

`open_source` decides by content.  Nothing here writes, and nothing computes a weight.
"""

from __future__ import annotations

from pathlib import Path

from qedge.runtime.errors import ImageError, UsageError
from qedge.toolkit.source import gguf_header
from qedge.toolkit.source.model import ModelConfig, RopeScaling, SourceModel, SourceTensor

__all__ = ["ModelConfig", "RopeScaling", "SourceModel", "SourceTensor", "open_source"]

# First bytes of files that are often given in place of a model.
STRANGERS = {
    b"PK\x03\x04": "a PyTorch or zip archive; give the model's safetensors folder or GGUF",
    b"\x80\x02": "a Python pickle; give the model's safetensors folder or GGUF",
    b"tjgg": "a GGML file older than GGUF; convert the model again",
    b"lmgg": "a GGML file older than GGUF; convert the model again",
    b"fmgg": "a GGML file older than GGUF; convert the model again",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` in its folder",
}


def open_source(path: Path, tokenizer: Path | None = None) -> SourceModel:
    """Open a model, lazily: tensors stay mapped until their rows are read.

    path       a GGUF file, a folder with config.json, or a llama2.c checkpoint (.bin)
    tokenizer  the tokenizer.bin of a llama2.c checkpoint; the others carry their own

    ImageError when the model is damaged, incomplete or of another kind; UsageError when
    `tokenizer` is missing or out of place.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path, tokenizer)
    start = _first_bytes(path)
    if not start:
        raise ImageError(f"{path}: the file is empty; fetch it again")
    for magic, what in STRANGERS.items():
        if start.startswith(magic):
            raise ImageError(f"{path}: is {what}")
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
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise ImageError(f"{path}: is one file of a folder; give the folder {path.parent}")
    raise ImageError(
        f"{path}: begins with {start[:4]!r}; a model is a GGUF file, a folder with config.json "
        "or a llama2.c checkpoint (.bin)"
    )


def _open_folder(folder: Path, tokenizer: Path | None) -> SourceModel:
    from qedge.toolkit.source.hf_folder import open_hf_folder

    if not (folder / "config.json").is_file():
        files = sorted(file.name for file in folder.glob("*.gguf"))
        hint = f"; did you mean {folder / files[0]}?" if files else ""
        raise ImageError(f"{folder}: a model folder needs a config.json{hint}")
    _refuse_tokenizer(folder, tokenizer)
    return open_hf_folder(folder)


def _refuse_tokenizer(path: Path, tokenizer: Path | None) -> None:
    if tokenizer is not None:
        raise UsageError(f"{path}: carries its own tokenizer; leave out {tokenizer}")


def _first_bytes(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ImageError(
                f"{path}: there is no such file or folder; `qedge pull` fetches models by name"
            )
        with path.open("rb") as file:
            return file.read(32)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror}") from error
