"""From what people type first to an image for this machine: a catalogue name, hf:ORG/REPO/FILE,
a GGUF or a model's folder. Built once, kept in the cache, verified whenever it is used again.

The name of a kept image is a hash of the model's bytes, this program's version and the options,
so another model can never be taken for it. Building needs numpy and much more memory than
running, so a process of its own does it: the caller's stays what its plan says. That process
speaks JSON lines on standard output; see main().
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from qedge.runtime import errors
from qedge.runtime.errors import ImageError, QedgeError, UsageError
from qedge.runtime.image import open_image
from qedge.runtime.machine import kernel_sets, total_bytes
from qedge.runtime.session import RESIDENT_BYTES
from qedge.toolkit import files
from qedge.toolkit.fetch import pull
from qedge.toolkit.source import locate

CONTEXT = "auto"
CHUNK_BYTES = 1 << 20
_MAGIC = b"QEDGEIMG"

Say = Callable[[str], object]
Progress = Callable[[str, int, int], None]  # step, done, of


def image_for(
    target: str, say: Say, progress: Progress | None = None, cache: Path | None = None
) -> Path:
    """An image for this machine of whatever `target` names; an image is given back as it is.

    target    an image, a name that `qedge pull` knows, a GGUF, a model's folder, or `commander`
    say       takes a line about what is done, when it is more than looking
    progress  called with (step, done, of) while a model is fetched and built
    cache     see files.cache_folder; images lie in its `images`

    The image holds q8_0 weights and the longest context that fits this machine.  ImageError
    when there is no such file or it is no model, BudgetError when it does not fit, WriteError
    when the cache cannot be written, and what pull raises."""
    if _is_image(target):
        return Path(target)
    if not target.startswith(pull.HUB_PREFIX):  # the hub's client is as large as numpy
        model = _model(target, say, progress, cache)
        kept = _kept_path(model, files.cache_folder(cache))
        if _is_right(kept):
            return kept
        target = os.fspath(model)
    return _made_elsewhere(target, say, progress, cache)


def model_for(
    target: str, say: Say, progress: Progress | None = None, cache: Path | None = None
) -> Path:
    """The model's file or folder that `target` names: fetched when it is no file but a name
    that `qedge pull` knows.  Arguments and errors as of image_for."""
    return _model(target, say, progress, cache, "a model's file or folder")


def _is_image(target: str) -> bool:
    try:
        if not os.path.isfile(target):
            return False
        with open(target, "rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False


def _model(
    target: str,
    say: Say,
    progress: Progress | None,
    cache: Path | None,
    wanted: str = "an image (.qimg), made by `qedge build`, a model",
) -> Path:
    """The model's file or folder, which is fetched when `target` is a name for that."""
    if os.path.lexists(target):
        return locate.locate(Path(target))
    if target == locate.COMMANDER:
        return locate.commander()
    if target in pull.CATALOGUE or target.startswith(pull.HUB_PREFIX):
        if not pull.is_here(target, cache):
            say(f"{target}: fetching it, once")
        found = pull.pull(
            target, cache, (lambda done, of: progress("fetch", done, of)) if progress else None
        )
        return locate.locate(found.path)
    from qedge.toolkit import board

    near = pull.near_name(target, (locate.COMMANDER, *board.names()))
    hint = f" (did you mean {near}?)" if near else ""
    raise ImageError(
        f"{target}: there is no such file{hint}; give {wanted}, or a name that `qedge pull` "
        "knows"
    )


def _kept_path(model: Path, cache: Path) -> Path:
    """Where the image of a model is kept: a name that its bytes decide."""
    digest = hashlib.sha256()
    usable = next((name for name, able in kernel_sets() if able), "")
    for part in (version("qedge"), CONTEXT, usable):
        digest.update(part.encode() + b"\0")
    for file in locate.model_files(model):
        name = os.fsencode(file.name) if model.is_dir() else b""
        digest.update(name + b"\0" + _file_digest(file))
    stem = (
        re.sub(r"[^A-Za-z0-9._-]+", "_", locate.model_name(model))[:80].lstrip(".") or "model"
    )
    return cache / "images" / f"{stem}-{digest.hexdigest()[:16]}.qimg"


def _file_digest(file: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with files.opened(file) as source:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise locate.unreadable(file, error) from error
    return digest.digest()


def _is_right(kept: Path) -> bool:
    """Whether a kept image is there, has the hash that was written beside it when it was built
    (several times as fast as its own tree, where the processor helps), and fits in RAM."""
    try:
        with files.opened(_sums(kept)) as sums:
            if sums.read().decode("utf-8", "replace") != _sum_line(kept):
                return False
        image = open_image(kept)
    except (OSError, QedgeError):
        return False
    need = image.bytes + image.plan["arena_bytes"] + RESIDENT_BYTES
    return bool(need <= (total_bytes() or need))


def _sums(kept: Path) -> Path:
    return kept.with_name(f"{kept.name}.sha256")


def _sum_line(kept: Path) -> str:
    """As sha256sum writes and checks it."""
    return f"{_file_digest(kept).hex()}  {kept.name}\n"


def _made_elsewhere(
    target: str, say: Say, progress: Progress | None, cache: Path | None
) -> Path:
    """The image, made by a process of its own."""
    command = [sys.executable, "-m", "qedge.toolkit.make.auto", target]
    command += [] if cache is None else [os.fspath(cache)]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    result: dict[str, Any] = {}
    try:
        for line in process.stdout:
            found = _told(line)
            if "say" in found:
                say(found["say"])
            elif "step" in found:
                if progress:
                    progress(found["step"], found["done"], found["of"])
            elif found:
                result = found
        process.wait()
    finally:
        if process.poll() is None:  # we were interrupted: it cleans up as we do
            process.terminate()
            process.wait()
        process.stdout.close()
    if "image" in result:
        return Path(result["image"])
    if "error" in result:
        kind = getattr(errors, result["error"], QedgeError)
        raise kind(result["message"])
    if process.returncode == -signal.SIGKILL:
        raise errors.BudgetError(
            f"{target}: the system ended the process that builds its image (out of memory?); "
            "stop other programs, or take a smaller model"
        )
    raise QedgeError(f"{target}: the process that builds its image ended early")


def _told(line: bytes) -> dict[str, Any]:
    """What a line of that process says; nothing when a library printed it."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def make(
    target: str, say: Say, progress: Progress | None = None, cache: Path | None = None
) -> Path:
    """As image_for, in this process."""
    model = _model(target, say, progress, cache)
    kept = _kept_path(model, files.cache_folder(cache))
    with files.writing(kept.parent):
        kept.parent.mkdir(parents=True, exist_ok=True)
        lock = kept.with_name(f".{kept.name}.lock")
        if files.is_locked(lock):
            say(f"{kept}: another process builds it; waiting")
        with files.locked(lock):
            if _is_right(kept):  # another process may just have finished
                return kept
            if kept.exists():
                say(f"{kept}: is not what was built there, or no longer fits; built again")
            fresh = kept.with_name(f".{kept.name}.new")
            try:
                _build(model, fresh, say, progress)
                if _kept_path(model, files.cache_folder(cache)) != kept:
                    raise ImageError(f"{model}: changed while its image was built; try again")
                line = _sum_line(fresh).replace(fresh.name, kept.name)
                os.replace(fresh, kept)
                with files.new_file(_sums(kept)) as sums:
                    sums.write(line.encode())
            finally:
                with contextlib.suppress(OSError):
                    fresh.unlink()
    return kept


def _build(model: Path, output: Path, say: Say, progress: Progress | None) -> None:
    from qedge.toolkit.board import load
    from qedge.toolkit.make.build import build

    say(f"{model}: building its image for this machine, once (`qedge build` has other types)")
    try:
        built = build(
            model, load("host"), output, context=CONTEXT, at_once=True, progress=progress
        )
    except UsageError as error:
        if "--tokenizer" not in str(error):
            raise
        raise UsageError(
            f"{model}: a llama2.c checkpoint carries no tokenizer; build an image with "
            f"`qedge build {model} --tokenizer FILE` and give that"
        ) from error
    say(f"built: {built.bytes:,} B, a context of {built.plan.context:,} tokens")


def main() -> None:
    """`python -m qedge.toolkit.make.auto TARGET [CACHE]`: JSON lines of what is said and done,
    and last {"image": path} or {"error": class, "message": text}."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # cleans up, as Ctrl-C does
    cache = Path(sys.argv[2]) if len(sys.argv) > 2 else None

    def tell(fields: dict[str, Any]) -> None:
        print(json.dumps(fields), flush=True)

    def progress(step: str, done: int, of: int) -> None:
        tell({"step": step, "done": done, "of": of})

    try:
        image = make(sys.argv[1], lambda text: tell({"say": text}), progress, cache)
        tell({"image": str(image)})
    except QedgeError as error:
        known = next(kind for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
        tell({"error": known.__name__, "message": str(error)})
        sys.exit(error.exit_code)
    except MemoryError:
        tell({"error": "BudgetError", "message": "the system has no memory left for building"})
        sys.exit(errors.BudgetError.exit_code)
    except (KeyboardInterrupt, BrokenPipeError):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(2)


if __name__ == "__main__":
    main()
