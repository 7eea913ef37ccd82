"""A small arm64 Debian for emulated Linux boards: kernel, initial RAM disk and root file
system, made in seconds of Debian's own packages by a private apt. Nothing of this machine is
changed, and no package's script is run.

Debian's /sbin/init is not used: busybox starts an ssh server (dropbear) and says READY on the
console. Who may log in is the kernel command line's to say (qkey=TYPE:KEY, a public key).
Python is Debian's; nothing else is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qedge.runtime.errors import ToolError
from qedge.toolkit.emulators.machine import Machine
from qedge.toolkit.files import (
    cache_folder,
    locked,
    new_file,
    opened,
    private_folder,
    writing,
)
from qedge.toolkit.kept import made_folder, say_damaged

READY = b"QEDGE-READY"
DISK_BYTES = 1 << 30  # sparse; a power of two, as SD cards want
PACKAGES = ("busybox-static", "python3", "dropbear-bin", "base-passwd", "libgcc-s1")
NEEDED = ("apt-get", "dpkg-deb", "mke2fs")
_DROPPED = ("doc", "man", "locale", "info", "lintian", "perl", "i18n")


@dataclass(frozen=True, slots=True)
class System:
    """What QEMU boots. `disk` is the root file system as new; boards run on copies."""

    kernel: Path
    initrd: Path
    disk: Path
    device_tree: Path | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Keys of emulated boards, this user's own: who may log in, and what the boards answer
    with."""

    private: Path
    known_hosts: Path  # a public key only: the port is not known beforehand
    host_key: bytes  # as dropbear stores it


def own_keys() -> Identity:
    """The keys, made the first time. WriteError."""
    folder = private_folder(cache_folder() / "emulated")
    host = _key(folder / "host_ed25519")
    _key(folder / "id_ed25519")
    raw = serialization.Encoding.Raw
    seed = host.private_bytes(
        raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    public = host.public_key().public_bytes(raw, serialization.PublicFormat.Raw)
    name = b"ssh-ed25519"
    stored = len(name).to_bytes(4, "big") + name + (64).to_bytes(4, "big") + seed + public
    return Identity(folder / "id_ed25519", folder / "host_ed25519.pub", stored)


def _key(path: Path) -> Ed25519PrivateKey:
    """A private key's file with its public half beside it; made, by one process, unless it is
    one."""
    key = _read_key(path)
    if key is None:
        with writing(path.parent), locked(path.with_name(f".{path.name}.lock")):
            key = _read_key(path)
            if key is None:
                if path.exists():
                    say_damaged(path)
                key = Ed25519PrivateKey.generate()
                _write_key(path, key)
    return key


def _read_key(path: Path) -> Ed25519PrivateKey | None:
    """The key, if its file holds one and its public half is there."""
    try:
        with opened(path) as private, opened(path.with_name(path.name + ".pub")) as half:
            found = serialization.load_ssh_private_key(private.read(), None)
            public = half.read()
    except (OSError, ValueError, UnsupportedAlgorithm):
        return None
    if not isinstance(found, Ed25519PrivateKey) or public != _public_line(found):
        return None
    return found


def _public_line(key: Ed25519PrivateKey) -> bytes:
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(*form) + b"\n"


def _write_key(path: Path, key: Ed25519PrivateKey) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    with new_file(path.with_name(path.name + ".pub")) as file:
        file.write(_public_line(key))
    with new_file(path, private=True) as file:
        file.write(private)


def _script(name: str) -> str:
    return (resources.files("qedge.toolkit.emulators") / "shell" / f"{name}.sh").read_text(
        "ascii"
    )


def lacking() -> list[str]:
    """Programs that making a system needs and that are not here."""
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    return [name for name in NEEDED if shutil.which(name, path=path) is None]


def system(machine: Machine) -> System:
    """The system for a machine of QEMU, made the first time (packages: about 40 MB for virt,
    120 for raspi3b). ToolError."""
    if absent := lacking():
        raise ToolError(
            f"making an emulated board's Debian needs {', '.join(absent)}: a Debian system has "
            "them (apt, dpkg, e2fsprogs)"
        )
    mark = repr(
        (_script("init"), _script("initrd"), PACKAGES, machine, DISK_BYTES, own_keys().host_key)
    )
    stamp = hashlib.sha256(mark.encode()).hexdigest()[:12]
    folder = cache_folder() / f"debian-arm64-{machine.name}-{stamp}"
    made_folder(folder, partial(_make, machine))
    tree = folder / "board.dtb"
    return System(
        folder / "vmlinuz",
        folder / "initrd.gz",
        folder / "disk.ext4",
        tree if tree.exists() else None,
    )


def _call(command: list[str], **options: object) -> str:
    ended = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    if ended.returncode:
        raise ToolError(
            f"making an emulated board's Debian: {command[0]} ended with "
            f"{ended.returncode}: {(ended.stderr or ended.stdout).strip()[-600:]}"
        )
    return str(ended.stdout)


class Apt:
    """An apt of another architecture, with a state of its own and this machine's sources."""

    def __init__(self, folder: Path, architecture: str = "arm64") -> None:
        for name in ("state/lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "state/status").touch()
        config = folder / "apt.conf"
        config.write_text(
            f'APT::Architecture "{architecture}"; APT::Architectures "{architecture}";\n'
            f'Dir::State "{folder}/state"; Dir::State::status "{folder}/state/status";\n'
            f'Dir::Cache "{folder}/cache";\n'
            'APT::Install-Recommends "false"; APT::Sandbox::User "";\n'
            'Acquire::Languages "none"; Dpkg::Use-Pty "0";\n'
        )
        self._env = {**os.environ, "APT_CONFIG": str(config)}
        self.archives = folder / "cache/archives"
        self._stale = ""
        try:
            self._call("apt-get", "update", "-qq")
        except ToolError as error:  # a mirror in the middle of its sync: the rest may do
            self._stale = f" (before: {error})"

    def _call(self, *command: str, cwd: Path | None = None) -> str:
        try:
            return _call([*command], env=self._env, cwd=cwd)
        except ToolError as error:
            raise ToolError(f"{error}{self._stale}") from None

    def install(self, *names: str) -> None:
        """Fetches packages and all they need into `archives`."""
        self._call("apt-get", "install", "-qq", "-y", "--download-only", *names)

    def kernel(self, name: str) -> Path:
        """Fetches the kernel that a name like linux-image-arm64 stands for, alone."""
        told = self._call("apt-cache", "depends", name)
        real = re.search(r"Depends: (linux-image-\S+)", told)
        self._call("apt-get", "download", "-qq", real[1] if real else name, cwd=self.archives)
        return next(self.archives.glob(f"{real[1] if real else name}_*.deb"))


def _make(machine: Machine, folder: Path) -> None:
    work = folder / "work"
    apt = Apt(work / "apt")
    kernel = apt.kernel(machine.kernel)
    boot = work / "kernel"
    _call(["dpkg-deb", "-x", str(kernel), str(boot)])
    kernel.unlink()
    apt.install(*PACKAGES)
    root = work / "root"
    for name in ("bin", "sbin", "lib"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for package in sorted(apt.archives.glob("*.deb")):
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
        ) as tar:
            _call(["tar", "-x", "-C", str(root), "--keep-directory-symlink"], stdin=tar.stdout)
    _finish(root)
    disk = folder / "disk.ext4"
    with open(disk, "wb") as file:
        file.truncate(DISK_BYTES)
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    command = ["mke2fs", "-q", "-t", "ext4", "-E", "root_owner=0:0", "-d", str(root)]
    _call([*command, str(disk)], env={**os.environ, "PATH": path})
    shutil.copyfile(next(boot.glob("boot/vmlinuz-*")), folder / "vmlinuz")
    if machine.device_tree:
        tree = next(boot.glob(f"usr/lib/linux-image-*/{machine.device_tree}"))
        shutil.copyfile(tree, folder / "board.dtb")
    _initrd(boot, root / "usr/bin/busybox", machine.modules, folder / "initrd.gz")
    shutil.rmtree(work)


def _finish(root: Path) -> None:
    """What packages' scripts would have done, as far as it is needed."""
    for name in _DROPPED:
        shutil.rmtree(root / "usr/share" / name, ignore_errors=True)
    for name in ("proc", "sys", "dev", "tmp", "root/.ssh", "run", "mnt", "var/log"):
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = root / "usr/bin/busybox"
    if not busybox.exists():
        shutil.copy2(root / "bin/busybox", busybox)
    for name in _applets(busybox):
        if not any((root / f"usr/{bin}" / name).is_symlink() for bin in ("bin", "sbin")) and (
            not any((root / f"usr/{bin}" / name).exists() for bin in ("bin", "sbin"))
        ):
            (root / "usr/bin" / name).symlink_to("busybox")
    if not (root / "usr/bin/python3").exists():
        python = next((root / "usr/bin").glob("python3.*"))
        (root / "usr/bin/python3").symlink_to(python.name)
    master = (root / "usr/share/base-passwd/passwd.master").read_text()
    master = master.replace("root:*:", "root::").replace("/bin/bash", "/bin/sh")
    (root / "etc/passwd").write_text(master)
    shutil.copyfile(root / "usr/share/base-passwd/group.master", root / "etc/group")
    (root / "etc/shells").write_text("/bin/sh\n")
    keys = own_keys()
    (root / "etc/dropbear").mkdir(exist_ok=True)
    (root / "etc/dropbear/dropbear_ed25519_host_key").write_bytes(keys.host_key)
    (root / "etc/dropbear/dropbear_ed25519_host_key").chmod(0o600)
    (root / "root").chmod(0o700)
    (root / "root/.ssh").chmod(0o700)
    (root / "init").write_text(_script("init"))
    (root / "init").chmod(0o755)


def _applets(busybox: Path) -> list[str]:
    """The commands that a busybox holds: its table of names, in order, between the first two
    and the last."""
    table = max(re.findall(rb"\[\0\[\[\0(?:[a-z0-9_.-]+\0)+", busybox.read_bytes()), key=len)
    return [name.decode() for name in table.split(b"\0") if name]


def _initrd(boot: Path, busybox: Path, names: list[str], output: Path) -> None:
    modules = {
        path.name.split(".ko")[0].replace("_", "-"): path
        for path in boot.glob("lib/modules/**/*.ko*")
    }
    order: list[Path] = []

    def need(name: str) -> None:
        path = modules.get(name.replace("_", "-"))
        if path is None or path in order:
            return  # built in
        said = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
        for one in said[1].decode().split(",") if said and said[1] else ():
            need(one)
        order.append(path)

    for name in names:
        need(name)
    files: list[tuple[str, int, bytes]] = [
        (name, 0o040755, b"") for name in ("bin", "dev", "proc", "sys", "mnt", "m")
    ]
    files += [
        ("bin/busybox", 0o100755, busybox.read_bytes()),
        ("init", 0o100755, _script("initrd").encode()),
    ]
    for name in ("sh", "mount", "insmod", "switch_root", "sleep", "sed"):
        files.append((f"bin/{name}", 0o120777, b"busybox"))
    for path in order:
        files.append((f"m/{path.name}", 0o100644, path.read_bytes()))
    files.append(("order", 0o100644, "".join(f"{p.name}\n" for p in order).encode()))
    with new_file(output) as file:
        file.write(gzip.compress(archive(files), 1, mtime=0))


def archive(files: list[tuple[str, int, bytes]]) -> bytes:
    """A cpio archive in the "newc" format (Linux, initramfs buffer format) of
    (name, mode, content)."""
    found = bytearray()
    for number, (name, mode, data) in enumerate([*files, ("TRAILER!!!", 0, b"")], 1):
        head = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        found += b"070701" + "".join(f"{value:08X}" for value in head).encode()
        found += name.encode() + b"\0"
        found += bytes(-len(found) % 4) + data
        found += bytes(-len(found) % 4)
    return bytes(found)
