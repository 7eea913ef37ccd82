"""A board's shells, run here: what `Shell` sends by ssh is given to a real login shell as a
server of ssh would, in a home that may be named anything. No network, and no emulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from qedge.toolkit.linux.shell import call
from qedge.toolkit.linux.ssh import Ended

# The interpreters that boards have for sh, and what people have as login shells.
INTERPRETERS = ("dash", "bash", "busybox", "ksh", "mksh", "zsh")
LOGINS = (*INTERPRETERS, "fish", "tcsh")
# Parts of paths that a shell would do something with if it were let.
NAMES = (
    b"plain",
    b"vict im",
    b"it's",
    b'dou"ble',
    b"$HOME",
    b"$(touch hit)`touch hit`",
    b"new\nline",
    b"end\n",
    b"*[a-z]?",
    b"back\\slash\\",
    b"-rf .",
    b"caf\xe9\xff",
    b"a;touch hit&:b|c>d",
    b"~root",
    b"!bang#hash",
)


def there(program: str) -> str:
    """Where a shell is; a test is not skipped where it could be installed."""
    found = shutil.which(program)
    if found is None:
        need = f"no {program} here: tests/packages.sh installs it"
        if os.environ.get("CI") or os.geteuid() == 0:
            pytest.fail(need, pytrace=False)
        pytest.skip(need)
    return found


def tools(folder: Path, interpreter: str) -> str:
    """A PATH on which `sh` is that interpreter; with busybox, all other tools are its own."""
    at = there(interpreter)
    place = folder / f"bin-{interpreter}"
    if not place.exists():
        place.mkdir()
        for name in ("python3", "python3.10"):  # one Python by two names
            (place / name).symlink_to(sys.executable)
        if interpreter == "busybox":
            subprocess.run([at, "--install", "-s", place], check=True)
        else:
            (place / "sh").symlink_to(at)
    system = os.confstr("CS_PATH")  # and not what this machine's user put there
    return str(place) if interpreter == "busybox" else f"{place}:{system}"


@dataclass
class LocalShell:
    """What `Shell` is to its callers."""

    home: bytes
    path: str  # as PATH has it
    login: str = "sh"
    data_home: bytes | None = None
    name: str = "here"
    more: dict[str, str] = field(default_factory=dict)

    def start(self, text: str, words: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
        """A script that is there and waits for its input."""
        environment: dict[bytes, bytes] = {
            b"PATH": self.path.encode(),
            b"HOME": self.home,
            **{key.encode(): value.encode() for key, value in self.more.items()},
        }
        if self.data_home is not None:
            environment[b"XDG_DATA_HOME"] = self.data_home
        wanted = call(text, *words)
        at = shutil.which(self.login, path=self.path) or there(self.login)
        arguments = [at, *(["sh"] if self.login == "busybox" else []), "-c", wanted.command]
        process = subprocess.Popen(
            arguments,
            env=environment,
            cwd=self.home if os.path.isdir(self.home) else "/",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(wanted.head)
        process.stdin.flush()
        process.marker = wanted.marker  # type: ignore[attr-defined]
        return process

    def run(
        self,
        text: str,
        data: bytes | None = None,
        words: tuple[str, ...] = (),
        *,
        user: str = "",
        seconds: float = 60.0,
    ) -> Ended:
        process = self.start(text, tuple(words))
        output, complaints = process.communicate(data or b"", seconds)
        head, marker, rest = output.partition(process.marker)  # type: ignore[attr-defined]
        assert marker, (head, complaints)
        return Ended(process.returncode, rest, complaints.decode("utf-8", "replace"))


def everything(folder: bytes) -> set[bytes]:
    """All that lies in a folder, links not followed."""
    return {
        os.path.join(at, name)
        for at, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }
