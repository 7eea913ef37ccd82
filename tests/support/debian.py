"""Debian's Python for other processors, unpacked into the cache for qemu-user: packages are
fetched with a private apt and no package is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from support.toolchains import missing, need

from qedge.runtime.errors import NoBoardError
from qedge.toolkit.emulators.rootfs import Apt
from qedge.toolkit.fetch.pull import cache_folder

PACKAGE = "python3-minimal"


def python_root(arch: str) -> Path:
    """A folder that is the root of a Debian with Python, for arm64 or armhf."""
    root = cache_folder() / "debian" / f"{arch}-{PACKAGE}"
    if not root.exists():
        need("apt-get", "apt")
        need("dpkg-deb", "dpkg")
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root.parent) as name:
            folder = Path(name)
            _fetch(arch, folder)
            _unpack(folder)
            (folder / "root").rename(root)
    return root


def _fetch(arch: str, folder: Path) -> None:
    try:
        Apt(folder, arch).install(PACKAGE)
    except NoBoardError as error:
        missing(f"Debian's Python for {arch}", str(error))


def _unpack(folder: Path) -> None:
    root = folder / "root"
    for name in ("bin", "lib", "sbin"):  # as a Debian without /usr merged would be
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "cache/archives").glob("*.deb")):
        unpacked = folder / "unpacked"
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        for part in unpacked.iterdir():
            place = root / part.name if part.name == "usr" else root / "usr" / part.name
            if part.name in ("bin", "lib", "sbin", "usr"):
                shutil.copytree(part, place, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(unpacked)
