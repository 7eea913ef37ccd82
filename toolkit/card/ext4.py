"""A memory card, or a file that is one: refuses what is in use, finds its ext4 partition, and
edits that without mounting it, by e2fsprogs' debugfs.

Knows nothing of images and slots (toolkit/card/put.py does).
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qedge.runtime.errors import ToolError, UsageError, WriteError

SECTOR = 512
PROGRAMS = ("debugfs", "e2fsck", "e2undo")
_SUPER_AT, _SUPER_BYTES = 1024, 1024
_VALID, _RECOVER = 1, 4  # s_state; s_feature_incompat
_EXTENDED = (0x05, 0x0F, 0x85)
_PATH = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class System:
    """Where this machine says what it uses."""

    mounts: Path = Path("/proc/self/mountinfo")
    swaps: Path = Path("/proc/swaps")
    sys: Path = Path("/sys")


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition with ext4. number 0: the device has no partition table. Sizes are bytes."""

    number: int
    offset: int
    bytes: int
    label: str
    block: int
    free: int  # without what is kept for root
    clean: bool
    recover: bool  # the journal has to be played back


# ---- what is in use ----


def _disks(system: System, device: str) -> set[str]:
    """The whole disks that a device ("8:2") lies on, through partitions and mappings."""
    at = (system.sys / "dev/block" / device).resolve()
    if not at.exists():
        return {device}
    below = sorted((at / "slaves").glob("*"))
    if below:
        return set().union(
            *(_disks(system, (one / "dev").read_text().strip()) for one in below)
        )
    if (at / "partition").exists():
        at = at.parent
    return {(at / "dev").read_text().strip()}


def _number(path: str) -> str | None:
    """Of a block device, "8:2"; None of anything else."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    if not stat.S_ISBLK(found.st_mode):
        return None
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def check_unused(path: Path, system: System | None = None) -> None:
    """UsageError when a card, or a partition of it, is mounted, swapped to or part of something
    else, or when the running system is on it; also when a file is attached to a loop device."""
    system = system or System()
    real = os.path.realpath(path)
    card = _number(real)
    mine = _disks(system, card) if card else set()
    for line in _lines(system.mounts):
        head, _, tail = line.partition(" - ")
        fields, source = head.split(), tail.split()
        if len(fields) < 5 or len(source) < 2:
            continue
        place, name = _plain(fields[4]), _plain(source[1])
        numbers = [fields[2], *([found] if (found := _number(name)) else [])]
        same = name.startswith("/") and os.path.realpath(name) == real
        if same or any(mine & _disks(system, one) for one in numbers if mine):
            if place == "/":
                raise UsageError(f"{path}: this machine's system runs from it; nothing done")
            raise UsageError(f"{path}: is mounted at {place}; unmount it (umount {place})")
    for line in _lines(system.swaps)[1:]:
        number = _number(line.split()[0]) if line.split() else None
        if mine and number and mine & _disks(system, number):
            raise UsageError(f"{path}: this machine swaps to it; nothing done")
    for held in (system.sys / "block").glob("*/loop/backing_file"):
        if _read(held) == real:
            raise UsageError(
                f"{path}: is attached to {held.parents[1].name}; detach it (losetup -d)"
            )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return []


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""


def model(path: Path, system: System | None = None) -> str:
    """What the system calls a disk; empty for a file."""
    number = _number(os.path.realpath(path))
    if number is None:
        return ""
    found = []
    for disk in sorted(_disks(system or System(), number)):
        at = (system or System()).sys / "dev/block" / disk / "device"
        found += [_read(at / name) for name in ("vendor", "model", "name")]
    return " ".join(one for one in found if one)


# ---- opening, and what is on it ----


@contextmanager
def opened(path: Path, *, write: bool, system: System | None = None) -> Iterator[int]:
    """A descriptor of a card that nothing else uses, and that is kept from being mounted, or
    started in an emulator, meanwhile. UsageError, WriteError."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{path}: {reason}; give a card's device or file") from error
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise UsageError(f"{path}: neither a file nor a block device; give a card's")
    check_unused(path, system)
    flags = os.O_RDWR if write else os.O_RDONLY
    flags |= os.O_EXCL if stat.S_ISBLK(kind) else 0  # claims it: no one can mount it now
    try:
        number = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise UsageError(f"{path}: is in use; unmount it") from error
        hint = "; run this with sudo" if error.errno == errno.EACCES else ""
        raise WriteError(f"{path}: {error.strerror}{hint}") from error
    try:
        if write and stat.S_ISREG(kind):
            try:
                fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)  # QEMU holds such a lock
            except OSError:
                raise UsageError(
                    f"{path}: another program is at work with it (an emulated board?); end it"
                ) from None
        yield number
    finally:
        os.close(number)


def partitions(card: int) -> list[Partition]:
    """The ext4 partitions of a card, or what fills all of it."""
    size = os.lseek(card, 0, os.SEEK_END)
    if whole := _file_system(card, 0, 0, size):
        return [whole]
    found = [
        _file_system(card, number, first * SECTOR, count * SECTOR)
        for number, first, count in _table(card)
        if first > 0 and count > 0 and (first + count) * SECTOR <= size
    ]
    return sorted((one for one in found if one), key=lambda one: one.offset)


def _table(card: int) -> Iterator[tuple[int, int, int]]:
    """(number, first sector, sectors) by a GPT (UEFI 2.10, 5.3) or an MBR, whose logical
    partitions count from 5."""
    start = os.pread(card, 2 * SECTOR, 0)
    if start[510:512] != b"\x55\xaa":
        return
    if start[SECTOR : SECTOR + 8] == b"EFI PART":
        at, count, width = _gpt_place(start[SECTOR:])
        rows = os.pread(card, min(count, 1024) * width, at * SECTOR)
        for number in range(len(rows) // width):
            kind, first, last = struct.unpack_from("<16s16x2Q", rows, number * width)
            if any(kind):
                yield number + 1, first, last - first + 1
        return
    extended = 0
    for number, (type_, first, count) in enumerate(_mbr_rows(start), 1):
        if type_ in _EXTENDED:
            extended = extended or first
        elif type_:
            yield number, first, count
    at, number = extended, 5
    while at and number < 64:
        table = _mbr_rows(os.pread(card, SECTOR, at * SECTOR).ljust(SECTOR, b"\0"))
        if table[0][0]:
            yield number, at + table[0][1], table[0][2]
        at = extended + table[1][1] if table[1][0] in _EXTENDED and table[1][1] else 0
        number += 1


def _gpt_place(header: bytes) -> tuple[int, int, int]:
    """(first sector, number, bytes each) of a GPT's entries."""
    at, count, width = struct.unpack_from("<QII", header, 72)
    return at, count, width if 128 <= width <= 4096 else 128


def _mbr_rows(sector: bytes) -> list[tuple[int, int, int]]:
    """(type, first sector, sectors)."""
    return [struct.unpack_from("<4xB3x2I", sector, 446 + 16 * n) for n in range(4)]


def _file_system(card: int, number: int, offset: int, size: int) -> Partition | None:
    """What an ext4's superblock says (Linux, Documentation/filesystems/ext4)."""
    data = os.pread(card, _SUPER_BYTES, offset + _SUPER_AT)
    if len(data) < _SUPER_BYTES or data[56:58] != b"\x53\xef":
        return None
    blocks, kept, free = struct.unpack_from("<3I", data, 4)
    (scale,) = struct.unpack_from("<I", data, 24)
    (state,) = struct.unpack_from("<H", data, 58)
    (features,) = struct.unpack_from("<I", data, 96)
    if features & 0x80:  # 64bit
        high = struct.unpack_from("<3I", data, 0x150)
        blocks, kept, free = (n + (h << 32) for n, h in zip((blocks, kept, free), high))
    if scale > 6 or not 0 < blocks << (10 + scale) <= size:
        return None
    return Partition(
        number=number,
        offset=offset,
        bytes=size,
        label=data[120:136].split(b"\0")[0].decode("utf-8", "replace"),
        block=1024 << scale,
        free=max(0, free - kept) << (10 + scale),
        clean=state == _VALID,
        recover=bool(features & _RECOVER),
    )


def choose(path: Path, card: int, wanted: int | None) -> Partition:
    """The partition that was asked for, or the last one with ext4. UsageError."""
    found = partitions(card)
    there = ", ".join(str(one.number) for one in found if one.number) or "none"
    if wanted is not None:
        found = [one for one in found if one.number == wanted]
        if not found:
            raise UsageError(
                f"{path}: partition {wanted} is not ext4; partitions that are: {there}"
            )
    if not found:
        raise UsageError(f"{path}: no partition with ext4; give a board's card")
    return found[-1]


# ---- the file system ----


class FileSystem:
    """An ext4 on an open card. Paths are absolute, of characters that debugfs takes as they
    are. Writing is bracketed: `begin` marks it as not clean, so that whatever is interrupted a
    check (e2fsck) precedes its next use; `end` or `undo` takes the mark away."""

    def __init__(self, path: Path, card: int, partition: Partition, folder: Path) -> None:
        """folder: for temporary files, the undo files among them."""
        if absent := [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]:
            raise ToolError(
                f"{path}: editing a card needs {', '.join(absent)}; install e2fsprogs"
            )
        self._card, self._folder = card, folder
        self.path, self.partition = path, partition
        (folder / "card").symlink_to(os.path.realpath(path))  # its name may hold a "?"
        self._name = "card" + (f"?offset={partition.offset}" if partition.offset else "")
        self._undo: list[tuple[str, bytes]] = []

    def _call(self, *command: str) -> tuple[int, str]:
        """Runs a program to its end, also when we are interrupted: half done is worse."""
        environment = {**os.environ, "PATH": _PATH, "LC_ALL": "C", "DEBUGFS_PAGER": "cat"}
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle
            )
            try:
                process.wait()
            except BaseException:
                process.wait()
                raise
            said.seek(0)
            return process.returncode, said.read().decode("utf-8", "replace")

    def ask(self, command: str) -> str:
        """What debugfs says to a command that writes nothing."""
        return self._call("debugfs", "-R", command, self._name)[1]

    def listing(self, folder: str) -> dict[str, tuple[int, int, int, int]] | None:
        """Of a folder, name: (mode, user, group, bytes); None when it is not there."""
        rows = re.findall(
            r"^/(\d+)/(\d{6})/(\d+)/(\d+)/([^/\n]*)/(\d*)/$", self.ask(f"ls -p {folder}"), re.M
        )
        found = {
            name: (int(mode, 8), int(user), int(group), int(size or 0))
            for inode, mode, user, group, name, size in rows
            if inode != "0"
        }
        return found if "." in found else None

    def content(self, path: str) -> Iterator[bytes]:
        """Of a file, piece by piece; nothing when it is not there."""
        command = ("debugfs", "-R", f"cat {path}", self._name)
        environment = {**os.environ, "PATH": _PATH}
        with subprocess.Popen(
            command,
            cwd=self._folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdout is not None
            while data := process.stdout.read(1 << 20):
                yield data

    def check(self) -> str:
        """What e2fsck finds wrong; empty: nothing. Writes nothing."""
        code, said = self._call("e2fsck", "-f", "-n", self._name)
        asked = "? no" in said.replace("Optimize? no", "")  # a wrong count is no error to it
        return said.strip() if code or asked else ""

    def begin(self) -> None:
        self._undo.append(("", self._super()))
        self._write("set_super_value state 0")

    def edit(self, *commands: str) -> None:
        """Commands of debugfs, on the card for certain when this returns. It does not say
        whether they worked: look."""
        undo = f"undo-{len(self._undo)}"
        self._undo.append((undo, self._super()))
        self._write(*commands, undo=undo)

    def end(self) -> None:
        self._write("set_super_value state 1")
        self._undo.clear()

    def undo(self) -> bool:
        """Takes every edit back, the last one first; whether the file system is as before."""
        while self._undo:
            name, block = self._undo[-1]
            if name and (self._folder / name).exists():
                offset = ("-o", str(self.partition.offset)) if self.partition.offset else ()
                if self._call("e2undo", *offset, name, "card")[0]:
                    return False  # it stays marked as not clean
            os.pwrite(self._card, block, self.partition.offset + _SUPER_AT)
            self._settle()
            self._undo.pop()
        return True

    def _super(self) -> bytes:
        return os.pread(self._card, _SUPER_BYTES, self.partition.offset + _SUPER_AT)

    def _write(self, *commands: str, undo: str | None = None) -> None:
        script = self._folder / "commands"
        script.write_text("".join(f"{one}\n" for one in commands))
        more = () if undo is None else ("-z", undo)
        self._call("debugfs", "-w", *more, "-f", script.name, self._name)
        self._settle()

    def _settle(self) -> None:
        """On the card, and forgotten by this machine, so that what is read is what it holds."""
        os.fsync(self._card)
        os.posix_fadvise(self._card, 0, 0, os.POSIX_FADV_DONTNEED)
