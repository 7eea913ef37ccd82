"""What is run on a board's shell touches nothing but what it made itself, whatever the shell is
and however the user's folders are named."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import stat
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from ssh.shells import INTERPRETERS, LOGINS, NAMES, LocalShell, everything, tools

from qedge.runtime.errors import WriteError
from qedge.toolkit.linux.board import KEPT, check, install, probe, runtime_folder
from qedge.toolkit.linux.shell import call, script
from qedge.toolkit.linux.wheel import Built

AGENT = b"import sys\nprint(ascii(sys.argv[1:]), ascii(sys.path[0]), flush=True)\n"
AGENT += b"sys.stdout.buffer.write(sys.stdin.buffer.read())\n"


@pytest.fixture
def wheel(tmp_path: Path) -> Built:
    """A runtime whose agent prints its arguments, and then its input."""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as packed:
        packed.writestr("qedge/runtime/agent/__main__.py", AGENT)
        packed.writestr("qedge_runtime.dist-info/METADATA", "x" * 3000)
    path = tmp_path / "qedge_runtime.whl"
    path.write_bytes(found.getvalue())
    digest = hashlib.sha256(found.getvalue()).hexdigest()
    return Built(path=path, sha256=digest, bytes=len(found.getvalue()), **_others())


def _others() -> dict[str, Any]:
    names = {name for name in Built.__dataclass_fields__} - {"path", "sha256", "bytes"}
    return {name: "" for name in names}


def planted(place: bytes, name: bytes) -> None:
    """Victims beside a folder of that name: all that its parts could be taken for."""
    parts = {name.split()[0] if name.split() else b"x", *name.split(), b"vict", b"a", b"hit.d"}
    parts |= {name.strip(), name.replace(b"\\", b""), name.replace(b"\n", b" "), b"zz"}
    for part in sorted(parts - {name, b".", b".."}):
        if b"/" not in part and part:
            os.makedirs(os.path.join(place, part, b"kept"), exist_ok=True)


def home_named(folder: Path, name: bytes) -> tuple[bytes, set[bytes]]:
    """A home of that name, in a folder with victims."""
    place = top = os.fsencode(folder / "homes")
    for part in name.split(b"/"):
        os.makedirs(os.path.join(place, part))
        planted(place, part)
        place = os.path.join(place, part)
    return place, everything(top)


def root_of(home: bytes) -> bytes:
    return os.path.join(home, b".local/share/qedge")


ALL_IN_ONE = b"/".join(NAMES)
CASES = [(shell, name) for shell in ("dash", "bash", "busybox") for name in NAMES]
CASES += [(shell, ALL_IN_ONE) for shell in INTERPRETERS]


@pytest.mark.parametrize(("interpreter", "name"), CASES)
def test_a_runtime_is_put_into_a_folder_of_any_name_and_nothing_else_is_touched(
    interpreter: str, name: bytes, tmp_path: Path, wheel: Built
) -> None:
    home, before = home_named(tmp_path, name)
    shell = LocalShell(home, tools(tmp_path, interpreter))
    facts = probe(shell)  # type: ignore[arg-type]
    assert facts.writable and facts.executable and facts.free > 0 and not facts.runtimes
    started = [os.path.realpath(path) for _, _, path in facts.pythons]
    assert started and len(started) == len(set(started)), "a Python by two names"
    install(shell, facts, "python3", wheel)  # type: ignore[arg-type]
    root, folder = root_of(home), runtime_folder(wheel)
    runtime = os.path.join(root, folder.encode())
    assert os.listdir(root) == [folder.encode()]
    assert sorted(os.listdir(runtime)) == [b"qedge", b"qedge_runtime.dist-info"]
    assert probe(shell).runtimes == (folder,)  # type: ignore[arg-type]
    ended = shell.run(
        script("agent"), b"in\0put", ("home", "home", folder, "python3", "--board", "pi5")
    )
    shown = [
        ascii(["--root", os.fsdecode(root), "--board", "pi5"]),
        ascii(os.fsdecode(runtime)),
    ]
    assert ended.output == f"{' '.join(shown)}\nin\0put".encode(), ended.complaints
    new = everything(os.fsencode(tmp_path / "homes")) - before
    assert before <= everything(os.fsencode(tmp_path / "homes"))
    assert all(path.startswith(os.path.join(home, b".local")) for path in new)
    assert stat.S_IMODE(os.stat(runtime).st_mode) & 0o700 == 0o700


@pytest.mark.parametrize("name", NAMES)
def test_a_data_folder_that_the_user_chose_is_used_whatever_it_is_called(
    name: bytes, tmp_path: Path, wheel: Built
) -> None:
    home, before = home_named(tmp_path, b"home")
    chosen = os.path.join(os.fsencode(tmp_path), b"data", name)
    for interpreter in ("dash", "bash", "busybox"):
        shell = LocalShell(home, tools(tmp_path, interpreter), data_home=chosen)
        install(shell, probe(shell), "python3", wheel)  # type: ignore[arg-type]
    assert os.listdir(os.path.join(chosen, b"qedge")) == [runtime_folder(wheel).encode()]
    assert everything(os.fsencode(tmp_path / "homes")) == before
    assert os.listdir(os.path.join(os.fsencode(tmp_path), b"data")) == [name]


@pytest.mark.parametrize("relative", [b"-rf", b"x y", b"", b"~/data"])
def test_a_data_folder_that_is_no_full_path_is_passed_over(
    relative: bytes, tmp_path: Path
) -> None:
    home, _ = home_named(tmp_path, b"home")
    shell = LocalShell(home, tools(tmp_path, "dash"), data_home=relative)
    assert probe(shell).root == os.fsdecode(root_of(home))  # type: ignore[arg-type]
    assert os.listdir(home) == [b".local"]


@pytest.mark.parametrize("home", [b"-rf", b"", b"x y"])
def test_a_home_that_is_no_full_path_is_refused_and_nothing_is_made(
    home: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shell = LocalShell(home, tools(tmp_path, "dash"))
    ended = shell.run(script("probe"), words=("home",))
    assert ended.code == 65 and "set XDG_DATA_HOME" in ended.complaints
    assert os.listdir(tmp_path) == ["bin-dash"]


@pytest.mark.parametrize("login", LOGINS)
def test_every_login_shell_starts_a_script_with_its_arguments_and_its_input(
    login: str, tmp_path: Path
) -> None:
    home, before = home_named(tmp_path, b"vict im")
    shell = LocalShell(home, tools(tmp_path, "dash"), login)
    text = "printf '<%s>' \"$#\" \"$@\" 'it'\"'\"'s \\ !'; cat; exit 7"
    ended = shell.run(text, b"\0\xffdata\n", ("a", "/b-c_d.e:1", "-x"))
    assert ended.output == b"<3><a></b-c_d.e:1><-x><it's \\ !>\0\xffdata\n"
    assert ended.code == 7 and before <= everything(os.fsencode(tmp_path / "homes"))


def test_a_script_of_which_a_part_has_come_is_not_run(tmp_path: Path) -> None:
    home, _ = home_named(tmp_path, b"home")
    shell = LocalShell(home, tools(tmp_path, "dash"))
    wanted = call("touch hit\ntouch hit.whole")
    for size in range(len(wanted.head)):
        done = subprocess.run(
            ["sh", "-c", wanted.command],
            input=wanted.head[:size],
            env={"PATH": shell.path},
            cwd=home,
            capture_output=True,
        )
        assert done.returncode == 74 and not os.listdir(home)


FOREIGN = (
    b"runtime-mine",
    b"runtime-0123456789abcdeg",
    b"runtime-0123456789abcde",
    b"runtime-0123456789abcdef0",
    b"runtime-0123456789abcdef ",
    b"runtime-x\nruntime-0000000000000001",
    b"runtime-backup.new",
    b"runtime-0123456789abcdef.new",
    b"runtime-0123456789abcdef.12 34.x.new",
    b"runtime-0123456789abcdef.999999999.x y.new",
    b"runtime-0123456789abcdeg.999999999.ab.new",
    b"models",
)


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_what_is_not_a_runtime_of_ours_stays_whatever_its_name_begins_with(
    interpreter: str, tmp_path: Path, wheel: Built
) -> None:
    home, _ = home_named(tmp_path, b"vict im")
    root = root_of(home)
    for number, name in enumerate(FOREIGN):
        os.makedirs(os.path.join(root, name, b"kept"))
        os.utime(os.path.join(root, name), (number, number))
    elsewhere = os.path.join(os.fsencode(tmp_path), b"elsewhere")
    os.makedirs(os.path.join(elsewhere, b"kept"))
    for link in (b"runtime-00000000000000aa", b"runtime-00000000000000aa.999999999.ab.new"):
        os.symlink(elsewhere, os.path.join(root, link))
        os.utime(os.path.join(root, link), (1, 1), follow_symlinks=False)
    before = everything(os.fsencode(tmp_path / "homes")) | everything(elsewhere)
    for number in range(1, 7):
        old = os.path.join(root, b"runtime-%016x" % number)
        os.makedirs(old, exist_ok=True)
        os.utime(old, (number * 1000, number * 1000))
    unfinished = os.path.join(root, b"runtime-00000000000000bb.999999999.ab.new")
    at_work = os.path.join(root, b"runtime-00000000000000bb.%d.ab.new" % os.getpid())
    young = os.path.join(root, b"runtime-00000000000000bb.999999999.cd.new")
    for path in (unfinished, at_work, young):
        os.makedirs(path)
    for path in (unfinished, at_work):
        os.utime(path, (1, 1))
    shell = LocalShell(home, tools(tmp_path, interpreter))
    install(shell, probe(shell), "python3", wheel)  # type: ignore[arg-type]
    assert before <= everything(os.fsencode(tmp_path / "homes")) | everything(elsewhere)
    assert not os.path.exists(unfinished)
    assert os.path.exists(at_work) and os.path.exists(young)
    left = [name for name in os.listdir(root) if name.startswith(b"runtime-00000000000000")]
    left = [name for name in left if len(name) == 24 and name != b"runtime-00000000000000aa"]
    assert sorted(left) == [b"runtime-%016x" % number for number in (5, 6)]
    assert len(left) == KEPT - 1


def test_the_service_s_runtime_stays_however_old(tmp_path: Path, wheel: Built) -> None:
    home, _ = home_named(tmp_path, b"it's")
    root = root_of(home)
    for number in range(1, 7):
        os.makedirs(os.path.join(root, b"runtime-%016x" % number))
        os.utime(os.path.join(root, b"runtime-%016x" % number), (number, number))
    unit = tmp_path / "qedge.service"
    unit.write_text("WorkingDirectory=/opt/qedge/runtime-0000000000000001\n")
    shell = LocalShell(home, tools(tmp_path, "dash"))
    words = ("home", runtime_folder(wheel), "python3", wheel.sha256, "ab", "3", str(unit))
    assert shell.run(script("install"), wheel.path.read_bytes(), words).code == 0
    assert os.path.isdir(os.path.join(root, b"runtime-0000000000000001"))
    assert not os.path.isdir(os.path.join(root, b"runtime-0000000000000002"))


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_a_wheel_that_does_not_arrive_whole_leaves_nothing(
    interpreter: str, tmp_path: Path, wheel: Built
) -> None:
    home, before = home_named(tmp_path, b"vict im")
    shell = LocalShell(home, tools(tmp_path, interpreter))
    facts, packed = probe(shell), wheel.path.read_bytes()  # type: ignore[arg-type]
    for part in (b"", packed[:1000], packed + b"x", packed[:-1] + b"x"):
        wheel.path.write_bytes(part)
        with pytest.raises(WriteError, match="did not arrive whole"):
            install(shell, facts, "python3", wheel)  # type: ignore[arg-type]
        assert os.listdir(root_of(home)) == []
    assert before <= everything(os.fsencode(tmp_path / "homes"))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_an_installation_that_is_killed_costs_nothing_and_the_next_one_works(
    interpreter: str, number: signal.Signals, tmp_path: Path, wheel: Built
) -> None:
    home, before = home_named(tmp_path, b"vict im")
    shell = LocalShell(home, tools(tmp_path, interpreter))
    facts, folder = probe(shell), runtime_folder(wheel)  # type: ignore[arg-type]
    words = ("home", folder, "python3", wheel.sha256, "ab", "3", "/none")
    process = shell.start(script("install"), words)
    assert process.stdin is not None
    process.stdin.write(wheel.path.read_bytes()[:1000])
    process.stdin.flush()
    while not (os.path.isdir(root_of(home)) and os.listdir(root_of(home))):
        assert process.poll() is None
    process.send_signal(number)
    process.communicate()
    left = os.listdir(root_of(home))
    assert all(name.endswith(b".ab.new") for name in left)
    if number != signal.SIGKILL:
        assert not left
    install(shell, facts, "python3", wheel)  # type: ignore[arg-type]
    assert probe(shell).runtimes == (folder,)  # type: ignore[arg-type]
    assert before <= everything(os.fsencode(tmp_path / "homes"))


@pytest.mark.parametrize("interpreter", INTERPRETERS)
def test_installations_at_the_same_time_end_with_one_whole_runtime(
    interpreter: str, tmp_path: Path, wheel: Built
) -> None:
    home, before = home_named(tmp_path, b"vict im")
    shell = LocalShell(home, tools(tmp_path, interpreter))
    facts = probe(shell)  # type: ignore[arg-type]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            many = [pool.submit(install, shell, facts, "python3", wheel) for _ in range(4)]
            for one in many:
                one.result()
    root = root_of(home)
    assert os.listdir(root) == [runtime_folder(wheel).encode()]
    assert sorted(os.listdir(os.path.join(root, os.listdir(root)[0]))) == [
        b"qedge",
        b"qedge_runtime.dist-info",
    ]
    assert before <= everything(os.fsencode(tmp_path / "homes"))


def test_files_of_the_user_named_as_python_s_modules_do_not_reach_the_agent(
    tmp_path: Path, wheel: Built
) -> None:
    home, _ = home_named(tmp_path, b"home")
    for name in ("json.py", "zipfile.py", "hashlib.py", "qedge.py"):
        Path(os.fsdecode(home), name).write_text("raise SystemExit(99)\n")
    shell = LocalShell(home, tools(tmp_path, "dash"), more={"PYTHONPATH": os.fsdecode(home)})
    install(shell, probe(shell), "python3", wheel)  # type: ignore[arg-type]
    words = ("home", "home", runtime_folder(wheel), "python3")
    assert shell.run(script("agent"), b"", words).code == 0


def test_a_disk_from_which_nothing_is_run_is_named_as_the_cause(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    home, _ = home_named(tmp_path, b"vict im")
    mount = ["mount", "-t", "tmpfs", "-o", "noexec,size=4m", "none", home]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this container does not mount")
    try:
        facts = probe(LocalShell(home, tools(tmp_path, "dash")))  # type: ignore[arg-type]
    finally:
        subprocess.run(["umount", home], check=True)
    assert facts.writable and not facts.executable


def test_a_board_whose_home_has_a_newline_is_checked_as_any(tmp_path: Path) -> None:
    home, _ = home_named(tmp_path, b"new\nwritable=\nline")
    facts = probe(LocalShell(home, tools(tmp_path, "dash")))  # type: ignore[arg-type]
    assert facts.writable and facts.root.endswith(
        "new\\x0awritable=\\x0aline/.local/share/qedge"
    )
    from qedge.toolkit.board import load

    there = {"x86_64": "x86-64", "aarch64": "arm64"}[facts.machine]
    if there == "arm64":
        assert check(facts, load(there), "here") == "python3"
