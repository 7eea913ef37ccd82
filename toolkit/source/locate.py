"""What a path that somebody gave for a model means: the file or folder that holds the model.

The hub's cache, a folder around one GGUF, the parts of a split GGUF, and what is no model
though it is often given for one.  Only names and first bytes are looked at: see source/.
Standard library only, so that a cached image is found without numpy.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from qedge.runtime.errors import BudgetError, ImageError

CONFIG = "config.json"
COMMANDER = "commander"
ADAPTER = "adapter_config.json"
# llama-gguf-split's names; the numbers count from 1.
SPLIT = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\.gguf", re.ASCII | re.DOTALL)
PARTS_LIMIT = 1000
# The hub's cache: hub/models--ORG--NAME/snapshots/REVISION/ and refs/main, which names one.
REPOSITORY = re.compile(r"(models|datasets|spaces)--.+", re.DOTALL)
REPOSITORY_FOLDERS = ("snapshots", "blobs", "refs")
# What may shape the image of a folder, by the end of its name.
FOLDER_FILES = (".json", ".safetensors", ".jinja", ".model")
LFS = b"version https://git-lfs"
# What arrives in place of a file when a download goes wrong, in lower case.
NOT_THE_FILE = {
    LFS: "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder",
    b"version https://hawser": "is a Git LFS pointer; run `git lfs pull` in its folder",
    b"<!doctype html": "is a web page, not the file itself; download the file (its raw link)",
    b"<html": "is a web page, not the file itself; download the file (its raw link)",
    b'{"error"': "is a server's answer that it has failed, not the file; download it again",
    b"entry not found": "is a server's answer that there is no such file; check its name",
    b"repository not found": "is a server's answer that there is no such model; check its name",
    b"invalid username": "is a server's refusal, not the file; log in and download it again",
    b"access to model": "is a server's refusal, not the file; ask for access to the model",
}
FIRST_BYTES = 64


def commander() -> Path:
    """The folder of the model that ships with the package, under the name `commander`: a home
    command in English to one line of JSON (examples/commander)."""
    return Path(__file__).resolve().parents[1] / "models" / COMMANDER


def locate(path: Path) -> Path:
    """The file, or the folder with config.json, that holds the model at `path`.

    A hub cache's repository gives the snapshot that its refs/main names; a folder without
    config.json gives the one GGUF in it (the first part of a split one).  ImageError when
    nothing is there, when several could be meant, or when it is another thing."""
    mode = _mode(path)
    if not stat.S_ISDIR(mode):
        _refuse_streams(path, mode)
        return path
    found = _in_hub_cache(path)
    if found != path:
        return locate(found)
    names = names_in(path)
    if ADAPTER in names:
        raise ImageError(
            f"{path}: is an adapter (LoRA, by PEFT) and no model; merge it into its base model "
            "first (in Python: merge_and_unload(), then save_pretrained()) and give that folder"
        )
    weights = any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names)
    ggufs = any(name.lower().endswith(".gguf") for name in names)
    if CONFIG in names and (weights or not ggufs):
        return path
    return _lone_gguf(path, names)  # some put a config.json beside their GGUFs


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise unreadable(path, error) from error
        gone = " (a link to what is not there)" if os.path.lexists(path) else ""
        raise ImageError(
            f"{path}: there is no such file or folder{gone}; `qedge pull` fetches models"
        ) from error


def _refuse_streams(path: Path, mode: int) -> None:
    """A model is read here and there, more than once; what only flows cannot be."""
    if stat.S_ISREG(mode):
        return
    kinds = (
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    )
    kind = next((name for test, name in kinds if test(mode)), "no regular file")
    raise ImageError(
        f"{path}: is {kind}; a model's file is read at many places, so save it to disk first "
        "and give that file"
    )


def unreadable(path: Path, error: OSError) -> ImageError | BudgetError:
    """What an errno says of a file that should be read."""
    if error.errno in (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN):
        return BudgetError(
            f"{path}: {error.strerror}: this machine gives no more; close others"
        )
    cures = {
        errno.EACCES: "; its permissions do not let you read it",
        errno.EPERM: "; its permissions do not let you read it",
        errno.EIO: "; the disk fails, copy it from elsewhere",
        errno.ENAMETOOLONG: "; give its path",
        errno.ELOOP: "; its links lead in a circle",
        errno.ESTALE: "; the network disk has lost it, try again",
    }
    said = error.strerror or str(error)
    return ImageError(f"{path}: cannot be read: {said}{cures.get(error.errno or 0, '')}")


def names_in(folder: Path) -> list[str]:
    """What lies in a folder, sorted. ImageError when it cannot be read."""
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise unreadable(folder, error) from error


def _in_hub_cache(folder: Path) -> Path:
    """The snapshot that a folder of the hub's cache means; any other folder as it is."""
    names = names_in(folder)
    if CONFIG in names:
        return folder
    whole = folder.resolve()
    if REPOSITORY.fullmatch(whole.name):
        return _snapshot(folder)
    if whole.name in REPOSITORY_FOLDERS and REPOSITORY.fullmatch(whole.parent.name):
        return _snapshot(whole.parent)
    if any(name.endswith(".gguf") for name in names):
        return folder
    models = [name for name in names if name.startswith("models--")]
    if not models and "hub" in names and (folder / "hub").is_dir():
        return _in_hub_cache(folder / "hub")
    return _one_of(folder, models) if models else folder


def _snapshot(repository: Path) -> Path:
    name = repository.resolve().name
    if not name.startswith("models--"):
        raise ImageError(f"{repository}: is a {name.split('s--')[0]} of the hub, and no model")
    snapshots = repository / "snapshots"
    found = names_in(snapshots) if snapshots.is_dir() else []
    reference = repository / "refs" / "main"
    try:
        main = reference.read_text("utf-8", "replace").strip()
    except OSError:
        main = ""
    if main and main in found:
        return snapshots / main
    if not found:
        raise ImageError(
            f"{repository}: the hub's cache has nothing of this model yet; download it again "
            f"(hf download {name.removeprefix('models--').replace('--', '/')})"
        )
    return _one_of(snapshots, found)


def _one_of(folder: Path, names: Sequence[str]) -> Path:
    if len(names) == 1:
        return folder / names[0]
    raise ImageError(f"{folder}: holds {len(names)} models; give one: {_some(folder, names)}")


def _some(folder: Path, names: Sequence[str]) -> str:
    shown = ", ".join(str(folder / name) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _lone_gguf(folder: Path, names: list[str]) -> Path:
    """The only GGUF of a folder without config.json; ImageError says what the folder is."""
    files = [name for name in names if name.lower().endswith(".gguf")]
    files = [name for name in files if not name.startswith("mmproj")]  # a vision encoder
    whole = [
        name for name in files if not (part := SPLIT.fullmatch(name)) or part[2] == "00001"
    ]
    if len(whole) == 1 or (not whole and len(files) == 1):
        return folder / (whole or files)[0]
    if files:
        raise ImageError(
            f"{folder}: holds {len(files)} GGUF files; give one: "
            f"{_some(folder, whole or files)}"
        )
    inside = [name for name in names if (folder / name / CONFIG).is_file()]
    if inside:
        raise ImageError(f"{folder}: has no {CONFIG}; did you mean {_some(folder, inside)}?")
    raise ImageError(f"{folder}: a model folder needs a {CONFIG}{_what_it_is(names)}")


def _what_it_is(names: list[str]) -> str:
    """A folder without config.json, by the files that it has instead."""
    if not names:
        return "; this one is empty"
    if any(name.startswith("adapter_model.") for name in names):
        return "; this is an adapter (LoRA): merge it into its base model first, and give that"
    if "params.json" in names:
        return (
            "; these are the weights as their makers wrote them (params.json): take the "
            "model's Hugging Face folder, or a GGUF of it"
        )
    if any(name.endswith(".safetensors") for name in names):
        return "; download the model's other files (*.json) too"
    for end, what in ((".onnx", "ONNX"), (".tflite", "TFLite"), (".npz", "MLX or numpy")):
        if any(name.endswith(end) for name in names):
            return f"; these are {what} files: take the model's Hugging Face folder, or a GGUF"
    return ""


def split_parts(path: Path) -> tuple[Path, ...] | None:
    """The names that all parts of a split GGUF have, `path` being one; None for another name.

    ImageError when the name's own numbers are impossible."""
    match = SPLIT.fullmatch(path.name)
    if match is None:
        return None
    number, count = int(match[2]), int(match[3])
    if not 1 <= number <= count <= PARTS_LIMIT:
        raise ImageError(f"{path}: part {number} of {count} is not part of a split GGUF")
    stem = match[1]
    return tuple(
        path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf") for n in range(1, count + 1)
    )


def model_name(path: Path) -> str:
    """What a model's file or folder is called: without the numbers of a part, and in the hub's
    cache as its repository."""
    if not path.is_dir():
        part = SPLIT.fullmatch(path.name)
        return part[1] if part else path.stem
    folder = path.resolve()
    if folder.parent.name == "snapshots":
        folder = folder.parents[1]
    match = REPOSITORY.fullmatch(folder.name)
    return folder.name.split("--")[-1] if match and match[1] == "models" else folder.name


def model_files(path: Path) -> tuple[Path, ...]:
    """The files of a model that was located, in order: those that may shape its image."""
    if not path.is_dir():
        return split_parts(path) or (path,)
    names = [name for name in names_in(path) if name.endswith(FOLDER_FILES)]
    return tuple(path / name for name in names if (path / name).is_file())


def refuse_placeholder(path: Path, start: bytes) -> None:
    """ImageError when a file's first bytes are those of something that stands for it."""
    head = start[:FIRST_BYTES].lstrip().lower()
    for magic, what in NOT_THE_FILE.items():
        if head.startswith(magic):
            raise ImageError(f"{path}: {what}")
