"""Names of serial ports: which are taken, and what is said of one that cannot be opened."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import serial

from qedge.runtime.errors import NoBoardError, SeveralBoardsError, UsageError
from qedge.runtime.text import printable
from qedge.toolkit.board import device_of, load
from qedge.toolkit.link import find as module
from qedge.toolkit.link import open_line, port
from qedge.toolkit.link.client import Refused, _checked
from qedge.toolkit.link.find import find


@pytest.fixture
def terminal() -> Iterator[str]:
    ours, theirs = os.openpty()
    yield os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize(
    "name",
    [
        "/dev/ttyACM0",
        "COM3",
        "./ttyS0",
        "socket://localhost:4000",
        "socket://[::1]:4000",
        "SOCKET://h:1?logging=debug",
        "rfc2217://h:1?ign_set_control&poll_modem",
    ],
)
def test_lines_are_taken(name: str) -> None:
    port.check(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("socket://host", "has no host and port; give socket://HOST:PORT"),
        ("socket://host:", "has no host and port"),
        ("socket://host:0", "has no host and port"),
        ("socket://host:99999", "give socket://HOST:PORT"),
        ("socket://host:x", "give socket://HOST:PORT"),
        ("socket://:4000", "has no host and port"),
        ("socket://[::1:4000", "give socket://HOST:PORT"),
        ("socket://h:1/path", "has no host and port"),
        ("socket://u@h:1", "has no host and port"),
        ("socket://h:1?ign_set_control", "unknown option ign_set_control"),
        ("rfc2217://host", "give rfc2217://HOST:PORT"),
        ("spy:///dev/ttyACM0?file=/tmp/hit", "spy:// is not taken"),
        ("spy://socket://h:1", "spy:// is not taken"),
        ("alt:///dev/ttyACM0?class=x", "alt:// is not taken"),
        ("loop://", "loop:// is not taken"),
        ("hwgrep://.*", "hwgrep:// is not taken"),
        ("file:///etc/passwd", "file:// is not taken"),
        ("ssh://pi@host", "not behind ssh"),
        ("", "no port"),
        ("/dev/tty\0ACM0", "no port"),
        ("spy://\x1b[2J", r"\\x1b\[2J"),
    ],
)
def test_other_names_are_a_usage_error_before_anything_is_opened(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        open_line(name, 115200)
    assert str(caught.value).isprintable()


def test_a_spy_writes_no_file(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("kept")
    with pytest.raises(UsageError):
        open_line(f"spy://{tmp_path}/x?file={kept}", 115200)
    assert kept.read_text() == "kept"


def test_a_port_that_is_not_there_is_told_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class One:
        device = "/dev/ttyUSB7"

    monkeypatch.setattr(port.list_ports, "comports", lambda: [One()])
    with pytest.raises(NoBoardError, match="no such port.*there are: /dev/ttyUSB7; give one"):
        open_line("/dev/ttyACM99", 115200)
    monkeypatch.setattr(port.list_ports, "comports", list)
    with pytest.raises(NoBoardError, match="there are: none; give one with -p"):
        open_line("/dev/ttyACM99", 115200)


def test_a_port_that_another_program_has_is_told_with_that_program(terminal: str) -> None:
    code = (
        "import sys, time, serial; port = serial.Serial(sys.argv[1], exclusive=True)\n"
        "print('has it', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, terminal]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"has it\n"
        with pytest.raises(NoBoardError, match=f"in use: .*process {other.pid}"):
            open_line(terminal, 115200)
        other.kill()


def test_a_port_that_may_not_be_opened_is_told_with_its_group(
    terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import grp

    def refuse(*_: object, **__: object) -> None:
        raise serial.SerialException(errno.EACCES, "could not open port: Permission denied")

    monkeypatch.setattr(serial, "serial_for_url", refuse)
    with pytest.raises(NoBoardError, match=r"\(you may not\); it is for the group .*usermod"):
        open_line("/dev/ttyACM99", 115200)
    there = os.stat(terminal)
    if there.st_mode & stat.S_IRWXG and there.st_gid:
        group = grp.getgrgid(there.st_gid).gr_name
        with pytest.raises(NoBoardError, match=f"group {group}: sudo usermod -aG {group} "):
            open_line(terminal, 115200)


def test_a_search_tells_of_ports_that_it_could_not_look_at() -> None:
    with pytest.raises(NoBoardError, match="no pico answers at /dev/ttyACM99 .*no such port"):
        find("pico", 115200, ["/dev/ttyACM99"])


class Port:
    """As pyserial lists them."""

    def __init__(self, device: str, vid: int | None = None, pid: int | None = None) -> None:
        self.device, self.vid, self.pid = device, vid, pid


def test_a_board_is_looked_for_behind_usb_first_at_ports_with_a_boards_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = [
        Port("/dev/ttyS0"),
        Port("/dev/ttyACM0", 0x2341, 0x0043),  # an Arduino
        Port("/dev/ttyACM1", 0x2E8A, 0x000A),
        Port("/dev/ttyUSB0", 0x0403, 0x6001),  # an adapter
    ]
    monkeypatch.setattr(module.list_ports, "comports", lambda: there)
    assert module.usb_ports() == ["/dev/ttyACM1", "/dev/ttyACM0", "/dev/ttyUSB0"]
    pico = device_of(load("pico"))
    assert (pico.usb_vendor, pico.usb_product) == (0x2E8A, 0x000A)


def test_a_board_at_two_ports_is_one_board_and_two_are_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ids = {"/dev/ttyACM0": "11", "/dev/ttyUSB0": "11", "/dev/ttyUSB1": "22"}

    class Answers:
        def __init__(self, port: str) -> None:
            self.port = port

        def hello(self) -> SimpleNamespace:
            return SimpleNamespace(board="pico", board_id=ids[self.port])

        def close(self) -> None:
            pass

    monkeypatch.setattr(module, "open_line", lambda port, baud: None)
    monkeypatch.setattr(module, "LinkedDevice", lambda link, port: Answers(port))
    assert find("pico", 115200, ["/dev/ttyACM0", "/dev/ttyUSB0"]) == "/dev/ttyACM0"
    with pytest.raises(SeveralBoardsError, match="2 boards answer as pico"):
        find("pico", 115200, list(ids))


def test_a_line_that_takes_nothing_is_not_waited_for_without_end(
    terminal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "WRITE_SECONDS", 0.2)
    line = open_line(terminal, 115200)
    began = time.monotonic()
    with pytest.raises(serial.SerialTimeoutException):
        line.write(bytes(1 << 20))
    assert time.monotonic() - began < 30
    line.close()


@pytest.mark.parametrize(
    ("text", "keep", "shown"),
    [
        ("plain äöü 漢字 👩‍👩‍👧 \u00ad", "", "plain äöü 漢字 👩‍👩‍👧 \u00ad"),
        ("\x1b[31mred\x07\x00", "", "\\x1b[31mred\\x07\\x00"),
        ("a\tb\nc\r\n", "\n\t", "a\tb\nc\\x0d\n"),
        ("a\nb", "", "a\\x0ab"),
        ("\x9b31m\u2028\u2029", "", "\\x9b31m\\u2028\\u2029"),
        ("\u202eabc\u2066\u200f", "", "\\u202eabc\\u2066\\u200f"),
        ("\udcff\ud800", "", "\\udcff\\ud800"),
        ("\U000e0041", "", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, keep: str, shown: str) -> None:
    assert printable(text, keep) == shown
    assert "\x1b" not in shown


@pytest.mark.parametrize("code", [[1], {"a": 1}, "text", None, 2**70, 1.5, True])
def test_an_error_of_any_kind_from_a_board_is_refused_in_words_that_can_be_shown(
    code: object,
) -> None:
    with pytest.raises(Refused) as caught:
        _checked({"err": {"group": code, "rc": code, "text": "\x1b[2J" * 1000}}, 64)
    assert isinstance(caught.value.code, int) and caught.value.text.isprintable()
    assert len(caught.value.text) < 5000
