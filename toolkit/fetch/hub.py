"""Fetches files of the Hugging Face hub, through its own client and cache.

Asked once whether it answers: without a network that is said at once, and what was fetched
before is taken.  Which file, and what becomes of it, is pull.py's matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qedge.runtime.errors import FetchError, ImageError, ToolError
from qedge.toolkit.files import NO_SPACE, sha256_of, write_error

ANSWER_SECONDS = 10
BLOB = re.compile(r"[0-9a-f]{64}")  # the hub stores a large file under its SHA-256


class PullError(FetchError):
    """The model could not be fetched: no network, no such package, no such file on the hub."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of the hub's cache; `asked`: whether the hub said that it is still this one."""

    path: Path
    sha256: str
    asked: bool


def fetch(name: str, repo: str, file: str, folder: Path | None) -> HubFile:
    """A file of a repository, whole and right.

    name    what the user called it, for messages
    folder  the hub's cache; None: where its client keeps it

    PullError when it does not come and was not fetched before, UsageError without the hub's
    client, WriteError when it cannot be stored, ImageError when it arrives damaged."""
    path, asked = _file(name, repo, file, folder, force=False)
    digest = sha256_of(path)
    if not _agrees(path, digest):
        path, asked = _file(name, repo, file, folder, force=True)
        digest = sha256_of(path)
        if not _agrees(path, digest):
            raise ImageError(
                f"{path}: has SHA-256 {digest}, the hub says {path.resolve().name}; "
                "what was fetched is damaged, try again"
            )
    return HubFile(path, digest, asked)


def _agrees(path: Path, digest: str) -> bool:
    """Whether the file has the hash the hub stores it under (small files have none)."""
    blob = path.resolve().name
    return BLOB.fullmatch(blob) is None or blob == digest


def _file(
    name: str, repo: str, file: str, folder: Path | None, *, force: bool
) -> tuple[Path, bool]:
    """The file in the hub's cache, and whether the hub was asked. PullError."""
    try:
        from huggingface_hub import errors as hub
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    except ImportError as error:
        raise ToolError(f"{name} needs the hub client: pip install 'qedge[hub]'") from error
    http: Any = hub  # whose HTTPError is another library's, by version
    failures = (OSError, ValueError, http.HTTPError, hub.EntryNotFoundError)
    try:
        # asked once, so that a network that is not there is known at once: the download itself
        # would try for half a minute
        get_hf_file_metadata(hf_hub_url(repo, file), timeout=ANSWER_SECONDS)
    except failures as error:
        if not force and _no_answer(error) and (kept := _kept(repo, file, folder)):
            return kept, False
        raise _refusal(name, error) from error
    try:
        path = hf_hub_download(repo, file, cache_dir=folder, force_download=force)
    except failures as error:
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise write_error(folder or Path("the hub's cache"), error) from error
        raise _refusal(name, error) from error
    return Path(path), True


def _no_answer(error: Exception) -> bool:
    """Whether nobody answered, rather than somebody who refused."""
    return getattr(error, "response", None) is None and not isinstance(error, ValueError)


def _kept(repo: str, file: str, folder: Path | None) -> Path | None:
    """The file as it was fetched before."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, cache_dir=folder)
    return Path(found) if isinstance(found, str) else None


def _refusal(name: str, error: Exception) -> PullError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0] if lines else type(error).__name__
    if _no_answer(error):
        return PullError(
            f"{name}: the hub cannot be reached: {said[:400]}; check the network, or fetch the "
            "file elsewhere and give its path"
        )
    return PullError(
        f"{name}: the hub did not give it: {said[:400]}; check the name and the network "
        "(a gated model needs `hf auth login`)"
    )
