"""Debian's Python for other processors, unpacked into the cache for qemu-user: packages are
fetched with a private apt and no package is installed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from conformance.toolchains import missing, need

from qedge.toolkit.pull import cache_folder

SUITE = "bookworm"  # Python 3.11
PACKAGE = "python3-minimal"
APT = """
APT::Architecture "{arch}"; APT::Architectures "{arch}";
APT::Install-Recommends "false"; APT::Sandbox::User "root";
Dir::State "{folder}/state"; Dir::State::status "{folder}/status"; Dir::Cache "{folder}";
Dir::Etc::sourcelist "{folder}/sources.list"; Dir::Etc::sourceparts "-";
Dir::Etc::preferencesparts "-";
"""


def python_root(arch: str) -> Path:
    """A folder that is the root of a Debian with Python, for arm64 or armhf."""
    root = cache_folder() / "debian" / f"{SUITE}-{arch}-{PACKAGE}"
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
    for part in ("state/lists/partial", "archives/partial"):
        (folder / part).mkdir(parents=True)
    (folder / "status").touch()
    line = f"deb http://deb.debian.org/debian {SUITE} main\n"
    (folder / "sources.list").write_text(line, "utf-8")
    (folder / "apt.conf").write_text(APT.format(arch=arch, folder=folder), "utf-8")
    environment = {"APT_CONFIG": str(folder / "apt.conf"), "PATH": "/usr/bin:/bin"}
    for words in (["update"], ["install", "-y", "--download-only", PACKAGE]):
        command = ["apt-get", "-qq", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            missing(f"Debian's Python for {arch}", f"apt-get said {done.stderr.strip()}")


def _unpack(folder: Path) -> None:
    root = folder / "root"
    for name in ("bin", "lib", "sbin"):  # as a Debian without /usr merged would be
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted((folder / "archives").glob("*.deb")):
        unpacked = folder / "unpacked"
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
        for part in unpacked.iterdir():
            place = root / part.name if part.name == "usr" else root / "usr" / part.name
            if part.name in ("bin", "lib", "sbin", "usr"):
                shutil.copytree(part, place, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(unpacked)
