"""The user's ssh configuration is read as OpenSSH reads it; `ssh -G` is asked for the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from qedge.runtime.errors import UsageError
from qedge.toolkit.linux import ssh_config
from qedge.toolkit.linux.ssh_config import read
from qedge.toolkit.linux.ssh_connect import Address


def write(home: Path, text: str | bytes, name: str = "config") -> Path:
    path = home / ".ssh" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


CONFIG = r"""
# the first value that applies is taken
Host pi pi-?  "quoted name"  # a comment behind
    HostName 10.0.0.7
    Port=2222
    User = "some one"
    IdentityFile ~/.ssh/first
    IdentityFile "%d/.ssh/se cond"
    IdentityFile none
    IdentitiesOnly yes
    CertificateFile ~/.ssh/first-cert.pub
    IdentityAgent ~/agent.sock
    UserKnownHostsFile ~/.ssh/boards "~/.ssh/more boards"
    GlobalKnownHostsFile /etc/known
    StrictHostKeyChecking accept-new
    HashKnownHosts yes
    UpdateHostKeys ask
    ObscureKeystrokeTiming no
Host inner
    HostKeyAlias the-inner
    ProxyJump admin@gate:2200,ssh://second
    ProxyCommand never %h
Host behind
    ProxyCommand nc -X 5 %h %p 2>/dev/null # not a comment
    StrictHostKeyChecking off
Host !secret *.lan
    User lan
Match host 10.0.0.7
    User too-late
    ServerAliveInterval 7
Host none
    UserKnownHostsFile none
    IdentityAgent none
    IdentityFile none
Host *
    Port 22022
"""


def test_what_the_configuration_says_of_a_host(home: Path) -> None:
    write(home, CONFIG)
    found = read("pi", None, None)
    assert (found.host, found.port, found.user) == ("10.0.0.7", 2222, "some one")
    assert found.identities == (f"{home}/.ssh/first", f"{home}/.ssh/se cond")
    assert found.certificates == (f"{home}/.ssh/first-cert.pub",) and found.identities_only
    assert found.agent == f"{home}/agent.sock" and found.hash_hosts
    assert found.user_files == (f"{home}/.ssh/boards", f"{home}/.ssh/more boards")
    assert found.global_files == ("/etc/known",) and found.strict == "accept-new"
    assert found.alias == "10.0.0.7" and found.config.get("ServerAliveInterval") == 7


def test_what_is_given_with_the_address_goes_before_it(home: Path) -> None:
    write(home, CONFIG)
    found = read("pi-2", "me@work", 9)
    assert (found.host, found.port, found.user) == ("10.0.0.7", 9, "me@work")


def test_jumps_go_before_a_proxy_command_and_that_is_the_shell_s(home: Path) -> None:
    write(home, CONFIG)
    inner = read("inner", None, None)
    assert inner.jumps == ("admin@gate:2200", "ssh://second") and not inner.proxy_command
    assert inner.alias == "the-inner"
    assert read("Some.Host", None, None).alias == "some.host"
    behind = read("behind", None, None)
    assert behind.proxy_command == "nc -X 5 behind 22022 2>/dev/null # not a comment"
    assert behind.strict == "no"


def test_negated_patterns_and_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    write(home, CONFIG)
    assert read("x.lan", None, None).user == "lan" and read("x.lan", None, None).port == 22022
    none = read("none", None, None)
    assert none.user_files == () and none.agent == "" and none.identities == ()
    other = read("other", None, None)
    assert other.agent == "/run/agent" and other.identities is None and other.strict == ""
    assert other.user_files[0] == f"{home}/.ssh/known_hosts"
    assert other.global_files[0] == "/etc/ssh/ssh_known_hosts"


def test_files_that_are_included_and_the_system_s(home: Path) -> None:
    write(home, "Include conf.d/*\nInclude ~/.ssh/absent\nHost b\nInclude only-b\n")
    write(home, "Host a\n User of-a\nHost *\n Port 1\n", "conf.d/a")
    write(home, "User of-b\n", "only-b")
    system = ssh_config.SYSTEM_FILE
    system.parent.mkdir()
    system.write_text("Include ssh.d/*.conf\nUser of-the-system\nHashKnownHosts yes\n")
    (system.parent / "ssh.d").mkdir()
    (system.parent / "ssh.d/x.conf").write_text("Compression yes\n")
    assert read("a", None, None).user == "of-a" and read("a", None, None).port == 1
    assert read("b", None, None).user == "of-b"
    other = read("c", None, None)
    assert other.user == "of-the-system" and not other.hash_hosts
    assert other.config.get("Compression") is True


def test_a_command_that_decides_has_the_host_s_name(home: Path) -> None:
    write(home, 'Match exec "test %n = pi && test %h = pi"\n  User yes\nHost *\n  User no\n')
    assert read("pi", None, None).user == "yes" and read("other", None, None).user == "no"
    write(home, 'Match !exec "test %n = pi"\n  User yes\nHost *\n  User no\n')
    assert read("pi", None, None).user == "no" and read("other", None, None).user == "yes"


def test_a_loop_of_files_ends(home: Path) -> None:
    write(home, "Include config\n")
    with pytest.raises(UsageError, match=r"config line 1: .*include each other"):
        read("pi", None, None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Port abc", "Invalid Port integer"),
        ("Port", "Port has no value"),
        ("IdentitiesOnly maybe", "Invalid IdentitiesOnly boolean"),
        ("StrictHostKeyChecking sometimes", "is one of yes"),
        ('IdentityFile "~/.ssh/a', "a quote does not end"),
        ("User a b", "more than one value"),
        ("= 5", "cannot be read"),
        ("IdentityFile %Z", "Z"),
        ("IdentityFile ${NOT_THERE_AT_ALL}", "NOT_THERE_AT_ALL"),
        ("Match nonsense", "nonsense"),
    ],
)
def test_a_line_that_makes_no_sense_is_named(line: str, said: str, home: Path) -> None:
    path = write(home, f"Host other\n    Port 5\nHost pi\n    {line}\n")
    with pytest.raises(UsageError, match=said) as caught:
        read("pi", None, None)
    if "IdentityFile %" not in line and "$" not in line:
        assert f"{path} line 4" in str(caught.value)
    if not line.startswith("Match"):
        assert read("other", None, None).port == 5


def test_any_bytes_and_unknown_options_do_no_harm(home: Path) -> None:
    write(
        home,
        b"\xef\xbb\xbf# caf\xe9 \xff\r\nHost pi\r\n  User caf\xc3\xa9\r\n  Port 7\r\n"
        b"  IdentityFile ~/.ssh/\xff\r\n  UseKeychain yes\r\n\tTCPKeepAlive\tno\r\n",
    )
    found = read("pi", None, None)
    assert (found.user, found.port) == ("café", 7)
    assert found.identities is not None
    assert os.fsencode(found.identities[0]).endswith(b"/.ssh/\xff")


def test_what_is_passed_over_is_said_with_its_line_unless_it_means_nothing_here(
    home: Path,
) -> None:
    path = write(
        home,
        "IgnoreUnknown My*\nMyOption 1\nLogLevel DEBUG\nControlMaster auto\n#Asdf\x1b[2J x\n"
        "Typpo yes\nRevokedHostKeys /none\nHost other\n  Nonsense 1\n",
    )
    assert read("pi", None, None).notes == (
        f"{path} line 6: typpo is not an option of ssh that is known here; ignored",
        f"{path} line 7: qedge does not obey revokedhostkeys",
    )


SAME = """
Host one # behind
    HostName one.example
    Port = 1234
    User "a b"
    HostKeyAlias alias
    IdentitiesOnly yes
    StrictHostKeyChecking accept-new
    HashKnownHosts yes
Host two
    ProxyJump me@gate:99
Host three
    ProxyCommand sh -c 'nc %h %p' # kept
Match originalhost four user me
    Port 44
Match host one.example
    ServerAliveInterval 9
Host *
    User me
    Port 1
"""


@pytest.mark.parametrize("host", ["one", "two", "three", "four"])
def test_openssh_s_own_client_reads_the_same(host: str, home: Path) -> None:
    ssh = shutil.which("ssh")
    assert ssh is not None, "tests/packages.sh installs it"
    path = write(home, SAME)
    done = subprocess.run([ssh, "-G", "-F", path, host], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs: dict[str, str] = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition(" ")
        theirs.setdefault(key, value)
    ours = read(host, None, None)
    assert theirs["hostname"] == ours.host and int(theirs["port"]) == ours.port
    assert theirs["user"] == ours.user
    assert theirs.get("proxyjump", "") == ",".join(ours.jumps)
    assert theirs.get("proxycommand", "").replace("%h", ours.host).replace(
        "%p", str(ours.port)
    ) == (ours.proxy_command)
    assert theirs.get("hostkeyalias", ours.host) == ours.alias
    strict = {"false": "no", "true": "yes"}.get(
        theirs["stricthostkeychecking"], theirs["stricthostkeychecking"]
    )
    assert strict == (ours.strict or "ask")
    assert theirs["identitiesonly"] == ("yes" if ours.identities_only else "no")
    assert theirs["hashknownhosts"] == ("yes" if ours.hash_hosts else "no")
    assert int(theirs["serveraliveinterval"]) == ours.config.get("ServerAliveInterval", 0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("user@domain@host", Address("host", "user@domain")),
        ("a@b@host:22", Address("host", "a@b", 22)),
        ("pi@::1", Address("::1", "pi")),
        ("::1", Address("::1")),
        ("[::1]:22", Address("::1", None, 22)),
        ("pi@[fe80::1%eth0]:2222", Address("fe80::1%eth0", "pi", 2222)),
        ("ssh://pi@[::1]", Address("::1", "pi")),
        (r"DOMAIN\pi@host", Address("host", r"DOMAIN\pi")),
    ],
)
def test_addresses_as_people_have_them(text: str, found: Address) -> None:
    assert Address.parse(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "pi@-oProxyCommand=x",
        "-pi@host",
        "pi@host;reboot",
        "pi@$(reboot)",
        "a`b`@host",
        "pi@[host",
        "pi@a:b:c",
        "pi@host:٢٢",
        "pi@host:",
        "pi@[::1]:x",
        "pi@[fe80::1%;x]",
        "pi@ho st",
        "a b@host",
        "\x1b[2J@host",
    ],
)
def test_what_is_no_address_is_refused_and_shown_as_it_is(text: str) -> None:
    with pytest.raises(UsageError, match="user@host") as caught:
        Address.parse(text)
    assert "\x1b" not in str(caught.value)


def test_an_ipv6_address_with_a_port_is_told_its_brackets() -> None:
    with pytest.raises(UsageError, match=r"\[address\]:port"):
        Address.parse("pi@fe80::1:zz")
