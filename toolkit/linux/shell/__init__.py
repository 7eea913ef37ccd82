"""The scripts that run on boards with Linux (*.sh beside this), and how one is started there.

A script is a fixed file. What differs from call to call are its arguments, which are words of
letters that mean nothing to any shell; no path is ever pasted into a script or a command. The
user's login shell, whichever it is, is given one constant that all of them read alike: it says
that it is there, behind whatever the shell's own start files print, and then takes the script
from its standard input, the rest of which is the script's own.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass
from functools import cache
from importlib import resources

# None has a quote, a backslash, an exclamation mark or a line's end in it: those are read
# differently by sh, fish and csh, also between single quotes.
_START = (
    'printf %s%s qedge- "$1"; n=$2; shift 2; s=$(dd bs=1 count="$n" 2>/dev/null); '
    'case $s in *"# whole") eval "$s";; *) exit 74;; esac'
)
_AS = {
    "": "",
    "root": 'if [ "$(id -u)" = 0 ]; then exec sh -c "$0" sh "$@"; fi; '
    'exec sudo -n sh -c "$0" sh "$@"',
    "qedge": 'if [ "$(id -u)" = 0 ]; then exec runuser -u qedge -- sh -c "$0" sh "$@"; fi; '
    'exec sudo -n -u qedge sh -c "$0" sh "$@"',
}
_WORD = re.compile(r"[A-Za-z0-9_./:-]+")


@dataclass(frozen=True, slots=True)
class Call:
    """How a script is started: the command for the login shell, the bytes that go first to its
    standard input, and those that come first, behind any noise, from its standard output."""

    command: str
    head: bytes
    marker: bytes


@cache
def script(name: str) -> str:
    """A script's text, with what it needs of place.sh before it."""
    folder = resources.files(__name__)
    return "".join((folder / f"{part}.sh").read_text("ascii") for part in ("place", name))


def call(text: str, *words: str, user: str = "") -> Call:
    """A call of a script's text for the shell `sh`, its arguments being words of letters,
    digits and _./:- alone. user: the login's own, or `root`, or `qedge` for the service's,
    which need sudo without a password, unless root has logged in. ValueError for other
    words."""
    for word in words:
        if not _WORD.fullmatch(word):
            raise ValueError(f"not a word that every shell leaves as it is: {word!r}")
    # a connection may break anywhere: what has come of a script then is never run
    head = f"{text}\n# whole".encode()
    token = secrets.token_hex(8)
    stages = f"'{_AS[user]}' '{_START}'" if _AS[user] else f"'{_START}' sh"
    command = " ".join(["sh -c", stages, token, str(len(head)), *words])
    return Call(command, head, f"qedge-{token}".encode())
