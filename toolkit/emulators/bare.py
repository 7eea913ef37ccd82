"""Emulated boards: real firmware on QEMU, on rp2040js or as a process, behind a pseudo terminal
that pyserial opens as it does a real port.

Every emulator is a process whose standard streams are the serial line; its flash is a file. A
board with USB has a second line, its serial port there: a socket that the process inherits.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import TracebackType

from qedge.runtime.errors import FetchError, NoBoardError, ToolError, UsageError
from qedge.runtime.image import open_image
from qedge.toolkit import files
from qedge.toolkit.bare.elf import flat, segments
from qedge.toolkit.bare.firmware import Firmware, build
from qedge.toolkit.bare.records import RECORD, page
from qedge.toolkit.board import Board, Device, device_of
from qedge.toolkit.device.flash import check_image
from qedge.toolkit.emulators.emulated import ends_with_us, no_emulator, no_way
from qedge.toolkit.files import cache_folder, new_file
from qedge.toolkit.kept import made_folder, tool_environment
from qedge.toolkit.link import Hello, Link, LinkedDevice, open_line

RP2040JS = "rp2040js@1.4.1"
ID_BYTES = 8
_CHUNK_BYTES = 65536
_RP2040_FLASH = 16 << 20  # firmware/emulator/rp2040.mjs; the chip has no more addresses
_SAID_BYTES = 1 << 20
_MACHINE_RAM = {"mps3-an547": 2 << 30}  # QEMU insists on the machine's own size


def _flash_size(device: Device) -> int:
    if device.emulator == "qemu" and not device.flash_loaded:
        return _MACHINE_RAM.get(device.machine, 16 << 20)
    return device.flash_bytes + ID_BYTES


def _check_flash(board: Board, device: Device) -> None:
    """UsageError for more flash than the emulator has: what is not there reads as worn out."""
    most = device.flash_bytes
    if device.emulator == "rp2040js":
        most = _RP2040_FLASH
    elif device.emulator == "qemu" and not device.flash_loaded:
        most = _flash_size(device) - ID_BYTES
    if device.flash_bytes > most:
        raise UsageError(
            f"board {board.name}, [device]: flash_bytes is {device.flash_bytes:,}, "
            f"{device.machine or device.emulator} has {most:,}; take less to emulate it"
        )


def preload(path: Path, board: Board, image: Path) -> None:
    """Puts an image's bytes into the first slot of a new flash file, without a record: as it
    starts, the board verifies and tests it, and takes it up. No slow line is waited for. A
    board whose emulator cannot write flash finds a record, too, and verifies the image."""
    device, opened = device_of(board), open_image(image)
    data = image.read_bytes()  # with its signature
    check_image(opened, len(data), image, device.image_bytes, device.arena_bytes, board)
    if path.exists():
        raise UsageError(f"{path}: is there already; an image is put into a new flash file")
    make_flash(path, device)
    with path.open("r+b") as file:
        file.seek(device.image_at)
        file.write(data)
        if device.flash_loaded:
            file.seek(device.records_of[0])
            file.write(page(RECORD, opened.id, sequence=1, size=opened.bytes))


def make_flash(path: Path, device: Device) -> None:
    """A flash file as it comes from the factory: erased, with an id behind its end. One that is
    there stays as it is; UsageError when it is not of this board."""
    size = _flash_size(device)
    if path.exists():
        if not path.is_file() or path.stat().st_size != size:
            raise UsageError(f"{path}: not a flash file of this board ({size:,} bytes)")
        return
    with new_file(path) as file:
        file.write(b"\xff" * device.flash_bytes)
        file.write(secrets.token_bytes(ID_BYTES))
        file.truncate(size)


def _rp2040js() -> Path:
    """The folder with rp2040js in it, fetched through npm the first time."""
    return made_folder(cache_folder() / RP2040JS.replace("@", "-"), _fetch_rp2040js)


def _fetch_rp2040js(folder: Path) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise ToolError("rp2040js needs node and npm; install them (Debian: nodejs npm)")
    command = [npm, "install", "--prefix", str(folder), "--no-save", "--ignore-scripts"]
    done = subprocess.run(
        [*command, "--no-audit", "--no-fund", RP2040JS],
        capture_output=True,
        text=True,
        check=False,
        env=tool_environment("npm_config_cache", ("HOME", ".npm")),
    )
    if done.returncode:
        raise FetchError(f"{RP2040JS} could not be fetched through npm:\n{done.stderr}")


def missing(board: Board) -> str | None:
    """Why this board cannot be emulated here, and what to do; None: it can."""
    device = device_of(board)
    if not device.emulator:
        return no_emulator(board)
    if device.emulator == "qemu" and shutil.which("qemu-system-arm") is None:
        return f"to emulate a {board.name}, install qemu-system-arm (Debian: qemu-system-arm)"
    if device.emulator == "rp2040js" and (
        shutil.which("node") is None or shutil.which("npm") is None
    ):
        return f"to emulate a {board.name}, install node and npm (Debian: nodejs npm)"
    return None


def _qemu(device: Device, options: str = "") -> list[str]:
    return [
        *ends_with_us(),
        "qemu-system-arm",
        *("-M", device.machine + options),
        *("-icount", "shift=5"),
        *("-display", "none", "-monitor", "none", "-serial", "stdio"),
    ]


def _with_firmware(flash: bytes, device: Device, firmware: Firmware) -> bytes:
    """What the whole flash holds, for an emulator that takes it up as it starts."""
    data = bytearray(flash[: device.flash_bytes])
    for segment in segments(firmware.path):
        at = segment.address - device.flash_at
        data[at : at + len(segment.data)] = segment.data
    return bytes(data)


def _command(
    device: Device, firmware: Firmware, flash: Path, cut: int, work: Path
) -> list[str]:
    """work: a folder for what only this emulator reads."""
    if device.emulator == "process":
        return [str(firmware.path)]
    if device.flash_loaded:
        loaded = work / "flash.bin"
        loaded.write_bytes(_with_firmware(flash.read_bytes(), device, firmware))
        return [
            *_qemu(device),
            *("-device", f"loader,file={loaded},addr={device.flash_at},force-raw=on"),
        ]
    if device.emulator == "qemu":
        backend = f"memory-backend-file,id=nor,size={_flash_size(device)},mem-path={flash}"
        return [
            *_qemu(device, ",memory-backend=nor"),
            *("-object", f"{backend},share=on"),
            *("-kernel", str(firmware.path)),
        ]
    script = Path(str(resources.files("qedge.firmware"))) / "emulator" / "rp2040.mjs"
    binary = work / "firmware.bin"
    binary.write_bytes(flat(firmware.path, device.flash_at))
    found = ["node", str(script), str(_rp2040js()), str(flash), str(binary)]
    return found + ([str(cut)] if cut else [])


class _Terminal:
    """A pseudo terminal: what the board sends, read by whoever opens `port`, and back."""

    def __init__(self) -> None:
        import tty

        self.master, self._slave = os.openpty()
        tty.setraw(self._slave)
        os.set_blocking(self.master, False)
        self.port = os.ttyname(self._slave)
        self.unread = b""  # by whoever has the port open, beyond what the terminal keeps

    def put(self, data: bytes) -> None:
        """From the board. Waits for nobody: what does not fit stays unread."""
        self.unread += data
        with contextlib.suppress(BlockingIOError):
            self.unread = self.unread[os.write(self.master, self.unread) :]

    def close(self) -> None:
        for number in (self.master, self._slave):
            os.close(number)


class Emulator:
    """A board that runs from `with` to its end. `port` is what pyserial opens; `usb_port` the
    serial port of a board with USB, whose cable is always plugged in."""

    identity: Path | None = None
    usb_port: str | None = None

    def __init__(
        self,
        board: Board,
        flash: Path,
        *,
        firmware: Firmware | None = None,
        cut: int = 0,
        options: Sequence[str] = (),
    ) -> None:
        """flash: the file that keeps the board's flash. cut: the power fails in that flash
        operation (the first is 1), which stays half done; 0: never. Only rp2040js can.
        options: more of QEMU's own."""
        self.board = board
        self._device = device_of(board)
        _check_flash(board, self._device)
        if need := missing(board):
            raise no_way(board, need)
        self._flash = flash
        self._firmware = firmware or build(board)
        self._cut = cut
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._pump: threading.Thread | None = None
        self._usb: socket.socket | None = None  # our end of the line over USB
        self.ended: int | None = None  # the emulator's exit code, when it ended by itself

    def __enter__(self) -> Emulator:
        if os.name != "posix":
            raise NoBoardError("boards are emulated on POSIX systems only")
        with contextlib.ExitStack() as held:
            make_flash(self._flash, self._device)
            held.enter_context(files.held(self._flash, "another emulated board runs on it"))
            self._work = held.enter_context(tempfile.TemporaryDirectory())
            self._held = held.pop_all()
        self._line = _Terminal()
        self.port = self._line.port
        self._usb_line = _Terminal() if self._has_usb else None
        if self._usb_line is not None:
            self.usb_port = self._usb_line.port
        self._wake, self._waker = os.pipe()
        self._complaints = tempfile.TemporaryFile()
        try:
            self._start()
        except OSError as error:
            self._close()
            raise NoBoardError(f"{self.board.name}: {error}") from error
        except BaseException:
            self._close()
            raise
        self._pump = threading.Thread(target=self._run, daemon=True)
        self._pump.start()
        return self

    @property
    def _has_usb(self) -> bool:
        return self._device.emulator == "rp2040js" and self._device.usb_vendor != 0

    def _start(self) -> None:
        environment = {**os.environ, "QEDGE_FLASH_FILE": str(self._flash)}
        theirs: tuple[socket.socket, ...] = ()
        if self._has_usb:
            self._usb, other = socket.socketpair()
            theirs = (other,)
            environment["QEDGE_USB"] = str(other.fileno())
            for end in (self._usb, other):  # little: a host that does not read is felt soon
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        try:
            self._process = subprocess.Popen(
                [
                    *_command(
                        self._device, self._firmware, self._flash, self._cut, Path(self._work)
                    ),
                    *self._options,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                bufsize=0,
                env=environment,
                pass_fds=[end.fileno() for end in theirs],
                start_new_session=True,  # a terminal's Ctrl-C is ours to handle
            )
        finally:
            for end in theirs:
                end.close()

    def _ways(self) -> list[tuple[_Terminal, int, int]]:
        """Each line's terminal, and the process's ends of it: where to write, where to read."""
        process = self._process
        assert process is not None and process.stdin and process.stdout
        ways = [(self._line, process.stdin.fileno(), process.stdout.fileno())]
        if self._usb_line is not None and self._usb is not None:
            ways.append((self._usb_line, self._usb.fileno(), self._usb.fileno()))
        return ways

    def _run(self) -> None:
        """Carries bytes between the terminals and the process until stopped. A terminal that
        nobody reads holds up its own line only."""
        while True:
            ways = self._ways()
            reads = [self._wake, *(terminal.master for terminal, _, _ in ways)]
            reads += [source for terminal, _, source in ways if not terminal.unread]
            writes = [terminal.master for terminal, _, _ in ways if terminal.unread]
            ready, room, _ = select.select(reads, writes, [])
            if self._wake in ready:
                return
            for terminal, sink, source in ways:
                if terminal.master in room:
                    terminal.put(b"")
                if source in ready:
                    data = self._read(source)
                    terminal.put(data)
                    if not data and terminal is self._line and not self._again():
                        return
                if terminal.master in ready:
                    with contextlib.suppress(OSError):  # it may just have ended
                        os.write(sink, os.read(terminal.master, _CHUNK_BYTES))

    @staticmethod
    def _read(source: int) -> bytes:
        try:
            return os.read(source, _CHUNK_BYTES)
        except ConnectionResetError:  # a socket's way to end
            return b""

    def _again(self) -> bool:
        """The process has ended: a reset starts it anew."""
        assert self._process is not None
        code = self._process.wait()
        if self._device.emulator == "process" and code == 0:
            self._start()
            return True
        self.ended = code
        return False

    def wait_until_ended(self, seconds: float) -> int | None:
        """The exit code of an emulator that ends by itself, or None when it has not."""
        if self._pump is not None:
            self._pump.join(seconds)
        return self.ended

    def end_text(self) -> str:
        """How an emulator ended, and what it said."""
        return f"{self.board.name}: the emulator ended with code {self.ended}: {self.said()}"

    def said(self) -> str:
        """What the emulator has said so far, beside the lines."""
        said = os.pread(self._complaints.fileno(), _SAID_BYTES, 0)
        return said.decode("utf-8", "replace").strip()

    def connect(self, port: str | None = None) -> LinkedDevice:
        """A link to it, at `port` or `usb_port`; default: `port`."""
        name = port or self.port
        return LinkedDevice(Link(open_line(name, self._device.baud), name), name)

    def facts(self) -> dict[str, str]:
        """Waits until it answers: its board_id."""
        return {"board_id": self.hello().board_id}

    def hello(self, seconds: float = 120.0) -> Hello:
        """Waits until it answers."""
        device = self.connect()
        try:
            return device.hello(patience=seconds)
        except NoBoardError:
            if self.ended is not None:
                raise NoBoardError(self.end_text()) from None
            raise
        finally:
            device.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.write(self._waker, b"x")
        if self._pump is not None:
            self._pump.join()
        process = self._process
        if process is not None:
            if process.poll() is None:
                process.terminate()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    stream.close()
        self._close()

    def _close(self) -> None:
        self._complaints.close()
        for terminal in filter(None, (self._line, self._usb_line)):
            terminal.close()
        for number in (self._wake, self._waker):
            os.close(number)
        if self._usb is not None:
            self._usb.close()
        self._held.close()
