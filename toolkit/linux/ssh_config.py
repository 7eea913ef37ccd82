"""The user's ssh configuration (ssh_config(5)), read by asyncssh's classes as OpenSSH reads it:
comments behind values, any bytes, the system's file behind the user's, and what asyncssh leaves
out. What is wrong in it is named by file and line. Connects to nothing.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from asyncssh.config import ConfigParseError, SSHClientConfig

from qedge.runtime.errors import UsageError
from qedge.runtime.text import printable

SYSTEM_FILE = Path("/etc/ssh/ssh_config")
USER_KNOWN = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
GLOBAL_KNOWN = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_STRICT = {"yes": "yes", "true": "yes", "no": "no", "off": "no", "false": "no"}
_STRICT |= {"ask": "ask", "accept-new": "accept-new"}
_WORD = re.compile(
    r"""\s*(?:"((?:\\["\\]|[^"])*)"|'((?:\\['\\]|[^'])*)'|((?:\\["' \\]|\S)+))"""
)
# What OpenSSH has beside asyncssh's, and what means nothing to a program that runs scripts.
# fmt: off
_ELSEWHERE = frozenset((
    "addkeystoagent", "batchmode", "bindinterface", "channeltimeout", "checkhostip", "cipher",
    "clearallforwardings", "compressionlevel", "connectionattempts", "controlmaster",
    "controlpath", "controlpersist", "dynamicforward", "enableescapecommandline",
    "escapechar", "exitonforwardfailure", "fingerprinthash", "forkafterauthentication",
    "forwardx11", "forwardx11timeout", "gatewayports", "gssapiclientidentity",
    "gssapirenewalforcesrekey", "gssapiserveridentity", "gssapitrustdns",
    "gssapikexalgorithms", "hostbasedacceptedalgorithms", "hostbasedkeytypes",
    "ignoreunknown", "ipqos", "kbdinteractivedevices", "localcommand", "localforward",
    "loglevel", "logverbose", "nohostauthenticationforlocalhost", "numberofpasswordprompts",
    "obscurekeystroketiming", "permitlocalcommand", "permitremoteopen", "protocol",
    "proxyusefdpass", "pubkeyacceptedalgorithms", "pubkeyacceptedkeytypes",
    "refuseconnection", "remoteforward", "requiredrsasize", "rhostsrsaauthentication",
    "rsaauthentication", "securitykeyprovider", "sessiontype", "skeyauthentication",
    "smartcarddevice", "stdinnull", "streamlocalbindmask", "streamlocalbindunlink",
    "syslogfacility", "tunnel", "tunneldevice", "updatehostkeys", "usekeychain",
    "useprivilegedport", "useroaming", "verifyhostkeydns", "versionaddendum", "visualhostkey",
    "warnweakcrypto", "xauthlocation",
))
# fmt: on
_NOT_OBEYED = {"revokedhostkeys", "knownhostscommand"}  # of meaning, and not known here
_WHOLE = {"proxycommand", "remotecommand", "localcommand", "knownhostscommand"}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the configuration says of one host."""

    host: str
    port: int
    user: str
    alias: str  # the name that known_hosts files have for it
    strict: str  # yes, no, ask, accept-new; empty: not said
    user_files: tuple[str, ...]  # of known hosts; empty: none are to be read or written
    global_files: tuple[str, ...]
    hash_hosts: bool
    identities: tuple[str, ...] | None  # files, there or not; None: not said
    certificates: tuple[str, ...]
    identities_only: bool
    agent: str  # the socket's path, or empty
    jumps: tuple[str, ...]
    proxy_command: str
    config: SSHClientConfig  # all else: ciphers, time limits and so on
    notes: tuple[str, ...] = ()  # what was ignored, with its file and line


class _Config(SSHClientConfig):
    """asyncssh's, with OpenSSH's way to read lines, and more options."""

    _percent_expand: set[str] = set()  # once, in the end: see `expanded`

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.notes: list[str] = []
        self.ignored: list[str] = []

    def _strict(self, option: str, args: list[str]) -> None:
        value = _STRICT.get(args.pop(0).lower())
        if value is None:
            self._error(f"{option} is one of {', '.join(_STRICT)}")
        self._options.setdefault(option, value)

    def _hash(self, option: str, args: list[str]) -> None:
        # a system's file is for its users' own files, not for ours
        if self._path != SYSTEM_FILE and SYSTEM_FILE.parent not in self._path.parents:
            self._set_bool(option, args)
        args.clear()

    def _include(self, option: str, args: list[str]) -> None:
        depth = getattr(self, "_depth", 0)
        if depth >= 16:
            self._error("files include each other without an end")
        self._depth = depth + 1
        super()._include(option, args)
        self._depth = depth

    def _match_all(self, option: str, args: list[str]) -> None:
        """Match, of which a command has its %-tokens like any other."""
        self._set_tokens()
        for at, word in enumerate(args[:-1]):
            if word.lower().lstrip("!") == "exec":
                args[at + 1] = self._expand_val(args[at + 1])
        self._match(option, args)

    _handlers = {
        **SSHClientConfig._handlers,
        "match": ("Match", _match_all),
        "include": ("Include", _include),
        "stricthostkeychecking": ("StrictHostKeyChecking", _strict),
        "hashknownhosts": ("HashKnownHosts", _hash),
    }

    def parse(self, path: Path) -> None:
        """Adds what a file says. ConfigParseError with its name and line."""
        self._path, self._line_no, self._matching = path, 0, True
        self._tokens = {"%": "%"}
        if SYSTEM_FILE.parent in (path.parent, *path.parents):
            self._default_path = SYSTEM_FILE.parent  # of files that it includes
        try:
            text = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
        except OSError as error:
            self._error(error.strerror or str(error))
        for line in text.split(b"\n"):
            self._line_no += 1
            self._take(line.decode("utf-8", "surrogateescape").strip())
        self._set_tokens()

    def _take(self, line: str) -> None:
        match = re.match(r"([A-Za-z0-9]+)\s*(?:=\s*|\s|$)(.*)", line)
        if not line or line.startswith("#"):
            return
        if match is None:
            if self._matching:
                self._error("cannot be read")
            return
        name = match[1].lower()
        if name == "ignoreunknown" and self._matching:
            self.ignored += match[2].lower().replace(",", " ").split()
        if name not in self._handlers and self._matching:
            self._note(name)
        if name not in self._handlers or not (self._matching or name in self._conditionals):
            return
        option, handler = self._handlers[name]
        args = [match[2].strip()] if name in _WHOLE else self._words(match[2])
        if not args or args == [""]:
            self._error(f"{option} has no value")
        handler(self, option, args)
        if args:
            self._error(f"{option} has more than one value")

    def _note(self, name: str) -> None:
        """What is ignored is not so in silence, unless it means nothing here."""
        if name in _NOT_OBEYED:
            self.notes.append(f"{self._path} line {self._line_no}: qedge does not obey {name}")
        elif name not in _ELSEWHERE and not any(fnmatch(name, one) for one in self.ignored):
            self.notes.append(
                f"{self._path} line {self._line_no}: {name} is not an option of ssh that is "
                "known here; ignored"
            )

    def _words(self, text: str) -> list[str]:
        found, at = [], 0
        while (text := text[at:].strip()) and not text.startswith("#"):
            match = _WORD.match(text)
            if match is None or (match[3] or "").startswith(('"', "'")):
                self._error("a quote does not end")
            double, single, plain = match.groups()
            word = next(one for one in (double, single, plain) if one is not None)
            found.append(re.sub(r"""\\(["'\\ ])""", r"\1", word))
            at = match.end()
        return found

    def expanded(self, value: str) -> str:
        """A value with its %-tokens, ${NAMES} of the environment and ~."""
        self._tokens.setdefault("k", str(self.get("HostKeyAlias") or self._tokens["n"]))
        self._tokens.setdefault("j", "")
        return os.path.expanduser(self._expand_val(value))


def read(
    host: str, user: str | None, port: int | None, files: tuple[Path, ...] | None = None
) -> Settings:
    """What is said of a host. user, port: as given with its name, which goes before. files:
    instead of the user's and the system's. UsageError, naming the file and the line."""
    if files is None:
        files = (Path("~/.ssh/config").expanduser(), SYSTEM_FILE)
    there = [path for path in files if os.access(path, os.R_OK)]
    given: tuple[Any, ...] = (user if user is not None else (), host, port or ())
    found: Any = None
    try:
        local = getpass.getuser()
        found = _Config.load(None, there, False, False, False, local, *given)
        if found.has_match_final():
            found = _Config.load(None, there, False, False, True, local, *given)
        return _settings(found, host, local)
    except ConfigParseError as error:
        raise UsageError(
            f"your ssh configuration cannot be used for {host}: {printable(str(error))}; mend "
            "that line"
        ) from error
    except (KeyError, OSError) as error:  # no name for this user; a file that went meanwhile
        raise UsageError(
            f"your ssh configuration cannot be read ({printable(str(error))}); set USER, and "
            "see ~/.ssh/config"
        ) from error


def _settings(found: _Config, host: str, local: str) -> Settings:
    found.loaded = True
    if "h" not in found._tokens:
        found._set_tokens()
    real = str(found.get("Hostname") or host)

    def all_of(option: str) -> list[str]:
        return [found.expanded(one) for one in found.get(option, ())]  # type: ignore[attr-defined]

    user_files: tuple[str, ...] = tuple(map(os.path.expanduser, USER_KNOWN))
    global_files: tuple[str, ...] = GLOBAL_KNOWN
    if found.get("UserKnownHostsFile") is not None:
        user_files = tuple(one for one in all_of("UserKnownHostsFile") if one != os.devnull)
    if found.get("GlobalKnownHostsFile") is not None:
        global_files = tuple(all_of("GlobalKnownHostsFile"))
    jumps = str(found.get("ProxyJump") or "")
    command = str(found.get("ProxyCommand") or "")
    identities = None
    if found.get("IdentityFile") is not None:
        identities = tuple(dict.fromkeys(all_of("IdentityFile")))
    return Settings(
        host=real,
        port=int(str(found.get("Port") or 22)),
        user=str(found.get("User") or local),
        alias=str(found.get("HostKeyAlias") or real.lower()),  # names have no case
        strict=str(found.get("StrictHostKeyChecking") or ""),
        user_files=user_files,
        global_files=global_files,
        hash_hosts=bool(found.get("HashKnownHosts")),
        identities=identities,
        certificates=tuple(all_of("CertificateFile")),
        identities_only=bool(found.get("IdentitiesOnly")),
        agent=_agent(found),
        jumps=tuple(one.strip() for one in jumps.split(",") if one.strip()),
        proxy_command="" if jumps else found._expand_val(command),
        config=found,
        notes=tuple(map(printable, found.notes)),
    )


def _agent(found: _Config) -> str:
    own = os.environ.get("SSH_AUTH_SOCK", "")
    said = found.get("IdentityAgent", "SSH_AUTH_SOCK")
    if said is None:
        return ""
    if said == "SSH_AUTH_SOCK":
        return own
    if str(said).startswith("$") and not str(said).startswith("${"):
        return os.environ.get(str(said)[1:], "")
    return found.expanded(str(said))
