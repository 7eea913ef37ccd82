"""Pieces worked off by a Dask cluster: machines with qedge installed. An image that a worker
cannot see by its path is sent to it once, kept in its cache, and believed by its hash tree."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from qedge.runtime.errors import NoBoardError, QedgeError, ToolError
from qedge.runtime.image import open_image, verify_image
from qedge.runtime.machine import cpus
from qedge.toolkit.files import cache_folder, new_file, private_folder
from qedge.toolkit.quality.pieces import Piece, Ref, run
from qedge.toolkit.quality.pool import Done

_SECONDS = 10  # for the scheduler to answer


def found_here(ref: Ref, blob: bytes | None, cache: Path | None = None) -> Ref | None:
    """The image where this worker has it: at its path, in its cache, or from its bytes, which
    are kept. None when it has to be sent. ImageError for bytes that are no such image."""
    sent = cache_folder(cache) / "compare" / "sent" / f"{ref.id}.qimg"
    for path in (ref.path, str(sent)):
        try:
            if open_image(path).id.hex() == ref.id:
                return Ref(path, ref.id)
        except (OSError, QedgeError):
            continue
    if blob is None:
        return None
    private_folder(sent.parent)
    with new_file(sent) as file:
        file.write(blob)
    verify_image(open_image(sent), str(sent))
    return found_here(ref, None, cache)


def work(fields: dict[str, Any], *blobs: bytes | None) -> list[bytes] | list[str]:
    """On a worker: what run() gives, or the ids of images that have to be sent."""
    piece = Piece.of(fields)
    refs = (piece.base, *piece.others)
    found = [found_here(ref, blob) for ref, blob in zip(refs, blobs or [None] * len(refs))]
    if missing := [ref.id for ref, one in zip(refs, found) if one is None]:
        return missing
    base, *others = (one for one in found if one is not None)
    return run(Piece(base, tuple(others), piece.tokens), _threads())


def _threads() -> int:
    """CPUs of this worker's host for each task that the worker has at once."""
    from distributed import get_worker

    return max(1, cpus() // max(1, int(get_worker().state.nthreads)))


def by_cluster(pieces: Sequence[Piece], address: str) -> Generator[Done]:
    """As they come. A worker that dies costs its pieces, which the cluster gives to others.
    ToolError without distributed, NoBoardError when no scheduler answers."""
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise ToolError(
            "--dask needs the library distributed: pip install 'qedge[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise NoBoardError(
            f"--dask {address}: no scheduler answers ({error}); give its address, as "
            "tcp://host:8786"
        ) from None
    with client:
        sent: dict[str, Any] = {}
        options = {"pure": False, "retries": 2}
        tasks = {client.submit(work, p.fields(), **options): n for n, p in enumerate(pieces)}
        coming = as_completed(tasks, loop=client.loop, raise_errors=False)
        for task in coming:
            number = tasks.pop(task)
            found = _result(task)
            if found and isinstance(found[0], str):
                piece = pieces[number]
                blobs = [_scattered(client, ref, sent) for ref in (piece.base, *piece.others)]
                again = client.submit(work, piece.fields(), *blobs, **options)
                tasks[again] = number
                coming.add(again)
                continue
            yield number, found


def _result(task: Any) -> Any:
    """What a task gave. The QedgeError that it raised; ToolError when its workers died."""
    try:
        return task.result()  # waits where the worker that had it has died since
    except QedgeError:
        raise
    except Exception as error:
        raise ToolError(
            f"a worker of the cluster failed: {type(error).__name__}: {error}; what was done "
            "is not done again"
        ) from error


def _scattered(client: Any, ref: Ref, sent: dict[str, Any]) -> Any:
    """An image's bytes on the cluster, brought there once."""
    if ref.id not in sent:
        sent[ref.id] = client.scatter(Path(ref.path).read_bytes(), hash=False)
    return sent[ref.id]
