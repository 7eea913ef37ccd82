"""Serial ports by their names: which ones may be named, and what is said when one cannot be
opened. What a network says (a coordinator of a lab, toolkit/lab) passes a narrower gate there.
"""

from __future__ import annotations

import contextlib
import errno
import getpass
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import serial
from serial.tools import list_ports

from qedge.runtime.errors import NoBoardError, UsageError
from qedge.runtime.text import printable

# Of pyserial's kinds of ports those that are lines. Others are for tests, or write files
# (spy://), or name classes to be made (alt://).
_OPTIONS = {
    "socket": {"logging"},
    "rfc2217": {"logging", "ign_set_control", "poll_modem", "timeout"},
}
_NAMES = "a serial port (/dev/ttyACM0, COM3), socket://HOST:PORT or rfc2217://HOST:PORT"
WRITE_SECONDS = 30.0


def check(port: str) -> None:
    """UsageError unless it is the name of a serial line: a path or socket://HOST:PORT or
    rfc2217://HOST:PORT."""
    shown = printable(port)
    if not port or "\0" in port:
        raise UsageError(f"{shown!r}: no port; give {_NAMES}")
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", port)
    if match is None:
        return
    scheme = match[1].lower()
    if scheme == "ssh":
        raise UsageError(
            f"{shown}: this board is at a serial line, not behind ssh; give {_NAMES}"
        )
    if scheme not in _OPTIONS:
        raise UsageError(f"{shown}: {scheme}:// is not taken as a port; give {_NAMES}")
    try:
        parts = urlsplit(port)
        host, number, options = parts.hostname, parts.port, parse_qs(parts.query, True)
    except ValueError as error:
        raise UsageError(f"{shown}: {error}; give {scheme}://HOST:PORT") from error
    if (
        not host
        or not number
        or parts.path not in ("", "/")
        or parts.username
        or parts.fragment
    ):
        raise UsageError(f"{shown}: has no host and port; give {scheme}://HOST:PORT")
    if unknown := sorted(set(options) - _OPTIONS[scheme]):
        raise UsageError(
            f"{shown}: unknown option {printable(unknown[0])}; known are "
            f"{', '.join(sorted(_OPTIONS[scheme]))}"
        )


def open_port(port: str, baud: int) -> Any:
    """pyserial's port. NoBoardError, with what to do, when it cannot be opened; UsageError as
    of `check`."""
    check(port)
    options: dict[str, Any] = {"baudrate": baud, "timeout": 0.05}
    if not port.lower().startswith("rfc2217:"):  # pyserial has none there
        options["write_timeout"] = WRITE_SECONDS  # a line that takes nothing has an end, too
    if "://" not in port:
        options["exclusive"] = True  # two programs on one line would talk through each other
    try:
        return serial.serial_for_url(port, **options)
    except (serial.SerialException, OSError, ValueError, TypeError, KeyError) as error:
        raise NoBoardError(f"{printable(port)}: {_why(port, error)}") from error


def _why(port: str, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT:
        ports = ", ".join(one.device for one in list_ports.comports()) or "none"
        return (
            "cannot be opened (there is no such port); those that there are: "
            f"{ports}; give one with -p"
        )
    if number in (errno.EACCES, errno.EPERM):
        return f"cannot be opened (you may not); {_how_to_be_let(port)}"
    if number in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EBUSY):
        who = holder(port)
        return (
            f"cannot be opened (in use: another program has it open{who and f', {who}'}); end "
            "that first"
        )
    reason = getattr(error, "strerror", None) or str(error)
    return f"cannot be opened ({printable(reason)}); give the board's port with -p"


def _how_to_be_let(port: str) -> str:
    """Which group has a port, and how to get into it."""
    group = "dialout"  # on most systems
    with contextlib.suppress(OSError, KeyError, ImportError):
        import grp

        there = os.stat(port)
        if there.st_mode & 0o060 and there.st_gid != 0:
            group = grp.getgrgid(there.st_gid).gr_name
    user = "$USER"
    with contextlib.suppress(OSError, KeyError, ImportError):
        user = getpass.getuser()
    return f"it is for the group {group}: sudo usermod -aG {group} {user}, then log in again"


def holder(port: str) -> str:
    """The program that has a port open, and its number, as far as this user may see it."""
    with contextlib.suppress(OSError):
        wanted = os.stat(port).st_rdev
        for process in Path("/proc").glob("[0-9]*"):
            if process.name == str(os.getpid()):
                continue
            with contextlib.suppress(OSError):
                for link in (process / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        found = os.stat(link)
                        if found.st_rdev == wanted and wanted:
                            name = (process / "comm").read_text("utf-8", "replace").strip()
                            return f"{printable(name)}, process {process.name}"
    return ""
