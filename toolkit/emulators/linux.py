"""Emulated Linux boards: Debian's arm64 kernel on QEMU, reached by ssh as a real board is."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from qedge.runtime.errors import NoBoardError, UsageError
from qedge.toolkit.board import Board, linux_of
from qedge.toolkit.emulators.emulated import ends_with_us, no_emulator, no_way
from qedge.toolkit.emulators.machine import machine
from qedge.toolkit.emulators.rootfs import DISK_BYTES, READY, System, lacking, own_keys, system
from qedge.toolkit.files import held, new_file

QEMU = "qemu-system-aarch64"
BOOT_SECONDS = 180.0  # until the console says READY: 2 to 10 s when nothing else runs
_END_SECONDS = 10.0


def missing(board: Board) -> str | None:
    """Why this board cannot be emulated here, and what to do; None: it can."""
    if not linux_of(board).emulator:
        return no_emulator(board)
    if shutil.which(QEMU) is None:
        return f"to emulate a {board.name}, install {QEMU} (Debian: qemu-system-arm)"
    if absent := lacking():
        return f"to emulate a {board.name}, install {', '.join(absent)}"
    return None


def make_disk(path: Path, made: System) -> None:
    """A disk as new; one that is there stays as it is. UsageError when it is none."""
    if path.exists():
        if not path.is_file() or path.stat().st_size != DISK_BYTES:
            raise UsageError(f"{path}: not an emulated board's disk ({DISK_BYTES:,} bytes)")
        return
    with new_file(path) as file, open(made.disk, "rb") as source:
        _copy_sparse(source.fileno(), file.fileno())


def _copy_sparse(source: int, output: int) -> None:
    size, at = os.fstat(source).st_size, 0
    os.truncate(output, size)
    while at < size:
        try:
            at = os.lseek(source, at, os.SEEK_DATA)
        except OSError:  # none behind
            return
        end = os.lseek(source, at, os.SEEK_HOLE)
        while at < end:
            at += os.pwrite(output, os.pread(source, min(1 << 20, end - at), at), at)


def _public_key(private: Path) -> str:
    """A private key's other half, TYPE:KEY; from FILE.pub when it has a passphrase."""
    import asyncssh

    if not private.is_file():
        raise UsageError(f"{private}: no such identity file; give that of a private key")
    if private.suffix == ".pub":
        raise UsageError(f"{private}: is the public half; give the private key's file")
    try:
        try:
            key = asyncssh.read_private_key(private)
        except asyncssh.KeyImportError:
            if not os.path.exists(f"{private}.pub"):
                raise
            key = asyncssh.read_public_key(f"{private}.pub")
        kind, data = key.export_public_key().decode("ascii").split()[:2]
    except (OSError, ValueError) as error:
        raise UsageError(f"{private}: not a private key that can be read ({error})") from error
    return f"{kind}:{data}"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class LinuxEmulator:
    """A board that runs from `with` to its end. `port` is its address for ssh, `identity` the
    file with the key that may log in."""

    usb_port: str | None = None

    def __init__(
        self,
        board: Board,
        disk: Path,
        *,
        ssh_port: int = 0,
        overlay: Path | None = None,
        identity: Path | None = None,
        options: Sequence[str] = (),
    ) -> None:
        """disk: the file that keeps the board's disk. overlay: a file that takes all writes in
        its place; what the board has not flushed to it is lost when QEMU is killed, as in a
        disk's write cache (not with an SD card: that has none). identity: the private key that
        may log in; unless given, one for all emulated boards of this user. options: more of
        QEMU's own."""
        if need := missing(board):
            raise no_way(board, need)
        self.board = board
        name, _, self._cpu = linux_of(board).emulator.partition(",")
        self._machine = machine(name)
        self._disk, self._overlay, self._options = disk, overlay, options
        keys = own_keys()
        private = (identity or keys.private).absolute()
        self._public = _public_key(private)
        self.identity: Path | None = private
        self.known_hosts = keys.known_hosts
        self._port = ssh_port
        self._ready = threading.Event()
        self._said = bytearray()
        self._process: subprocess.Popen[bytes] | None = None
        self._held = contextlib.ExitStack()

    @property
    def port(self) -> str:
        return f"root@127.0.0.1:{self._port}"

    @property
    def ended(self) -> int | None:
        """QEMU's exit code, when it has ended."""
        return None if self._process is None else self._process.poll()

    def _command(self, made: System) -> list[str]:
        of = self._machine
        format = "qcow2" if self._overlay is not None and of.write_cache else "raw"
        drive = f"file={self._overlay or self._disk},format={format},cache=writeback"
        net = f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{self._port}-:22"
        append = f"console={of.console} qroot={of.root} quiet loglevel=3 panic=-1"
        append += f" qkey={self._public} {of.arguments}"
        found = [QEMU, "-M", of.name, "-m", str(of.ram_mib), "-display", "none"]
        found += ["-monitor", "none", "-kernel", str(made.kernel), "-initrd", str(made.initrd)]
        found += ["-no-reboot", "-netdev", net, "-append", append.rstrip()]
        if self._cpu:  # else the machine has its own
            found += ["-cpu", self._cpu, "-smp", str(linux_of(self.board).cores)]
        if made.device_tree is not None:
            found += ["-dtb", str(made.device_tree)]
        return [*found, "-drive", f"{of.drive},{drive}", *of.options]

    def _make_overlay(self, path: Path) -> None:
        if not self._machine.write_cache:
            with new_file(path) as file, open(self._disk, "rb") as source:
                _copy_sparse(source.fileno(), file.fileno())
            return
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw"]
        subprocess.run([*command, "-b", str(self._disk.resolve()), str(path)], check=True)

    def __enter__(self) -> LinuxEmulator:
        made = system(self._machine)
        make_disk(self._disk, made)
        if self._overlay is not None and not self._overlay.exists():
            self._make_overlay(self._overlay)
        with contextlib.ExitStack() as stack:
            written = self._overlay or self._disk
            stack.enter_context(held(written, "another emulated board runs on it"))
            self._start(made)
            self._held = stack.pop_all()
        return self

    def _start(self, made: System) -> None:
        self._port = self._port or _free_port()
        try:
            self._process = subprocess.Popen(
                [*ends_with_us(), *self._command(made), *self._options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle
            )
        except OSError as error:
            raise NoBoardError(f"{self.board.name}: {error}") from error
        self._drain = threading.Thread(target=self._listen, daemon=True)
        self._drain.start()
        if not self._ready.wait(BOOT_SECONDS) or self.ended is not None:
            text = self.end_text()
            self.kill()
            raise NoBoardError(text)

    def _listen(self) -> None:
        """Takes what the console says: nobody doing so would stall the board."""
        assert self._process is not None and self._process.stdout is not None
        while data := self._process.stdout.read(4096):
            self._said += data
            del self._said[:-8192]
            if READY in self._said:
                self._ready.set()
        self._ready.set()

    def facts(self) -> dict[str, str]:
        """The identity that may log in; it answers already."""
        return {"identity": str(self.identity)}

    def end_text(self) -> str:
        """How it ended, and what the console said."""
        said = self._said.decode("utf-8", "replace").strip()[-600:]
        return f"{self.board.name}: QEMU (exit code {self.ended}) said: {said}"

    def kill(self) -> None:
        """The power goes: nothing is flushed."""
        self._end(lambda process: process.kill())

    def _end(self, how: object) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            how(process)  # type: ignore[operator]
        process.wait()
        self._drain.join()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        self._process = None
        self._held.close()

    def _power_off(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.write(b"\nsync; mount -o remount,ro /; reboot -f\n")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
        if process.poll() is None:
            process.terminate()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(self._power_off)
