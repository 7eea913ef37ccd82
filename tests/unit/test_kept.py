"""What the cache keeps: checked at every use, made again when damaged, by one at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.command import COMMAND

from qedge.runtime.errors import NoBoardError, WriteError
from qedge.toolkit import kept
from qedge.toolkit.bare import firmware
from qedge.toolkit.board import load
from qedge.toolkit.emulators import rootfs
from qedge.toolkit.kept import keep, kept_or_made, made_folder, tool_environment
from qedge.toolkit.linux import wheel

MIB = 1 << 20


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def read_only(folder: Path) -> Path:
    """A cache that nobody can write to, not even root: a file stands in its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    return folder


# ---- files ----


def test_kept_file_is_given_back_while_it_has_its_hash(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cache" / "thing"
    assert kept.kept(path) is None
    keep(path, b"the bytes")
    assert kept.kept(path) == b"the bytes" and not caplog.records
    for spoilt in (b"", b"the byteS", b"the bytes and more"):
        keep(path, b"the bytes")
        path.write_bytes(spoilt)
        assert kept.kept(path) is None and str(path) in caplog.records.pop().message
    keep(path, b"the bytes")
    path.with_name("thing.sha256").unlink()
    assert kept.kept(path) is None and not caplog.records


def test_a_pipe_in_the_place_of_a_kept_file_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("x", "x.sha256"):
        path = tmp_path / name
        keep(tmp_path / "x", b"old")
        path.unlink()
        os.mkfifo(path)
        assert kept.kept(tmp_path / "x") is None
        path.unlink()
    os.mkfifo(tmp_path / "y.sha256")
    with pytest.raises(WriteError, match=r"y\.sha256: not a regular file; remove it"):
        made_folder(tmp_path / "y", lambda new: (new / "a").write_bytes(b"1"))


def test_many_who_want_the_same_make_it_once(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(1)
        assert not threading.Event().wait(0.05)
        return b"made"

    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(kept_or_made(tmp_path / "thing", make)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"made"] * 8 and made == [1]


def test_failure_to_make_keeps_nothing_and_the_next_one_makes_it(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise NoBoardError("no compiler")

    with pytest.raises(NoBoardError):
        kept_or_made(tmp_path / "thing", fail)
    assert kept_or_made(tmp_path / "thing", lambda: b"made") == b"made"


# ---- folders ----


def fill(folder: Path) -> None:
    (folder / "below").mkdir()
    (folder / "below" / "file").write_bytes(b"content")
    (folder / "link").symlink_to("below/file")
    with (folder / "disk").open("wb") as disk:  # holes, data, holes
        disk.truncate(64 * MIB)
        disk.seek(17 * MIB + 5)
        disk.write(b"data")


def flip(path: Path, at: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def point(link: Path, where: str) -> None:
    link.unlink()
    link.symlink_to(where)


DAMAGE = {
    "flipped bit": lambda folder: flip(folder / "below" / "file", 3),
    "flipped bit of a disk's data": lambda folder: flip(folder / "disk", 17 * MIB + 6),
    "flipped bit in a disk's hole": lambda folder: flip(folder / "disk", 40 * MIB),
    "flipped bit at a disk's end": lambda folder: flip(folder / "disk", 64 * MIB - 1),
    "disk cut short": lambda folder: os.truncate(folder / "disk", 32 * MIB),
    "disk grown": lambda folder: os.truncate(folder / "disk", 65 * MIB),
    "file gone": lambda folder: (folder / "below" / "file").unlink(),
    "file empty": lambda folder: (folder / "below" / "file").write_bytes(b""),
    "file too many": lambda folder: (folder / "more").touch(),
    "file of another name": lambda folder: (folder / "disk").rename(folder / "disc"),
    "link elsewhere": lambda folder: (
        (folder / "link").unlink(),
        (folder / "link").symlink_to("disk"),
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_folder_is_made_anew_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = tmp_path / "made"
    for _ in range(2):
        assert made_folder(folder, fill) == folder
    assert not caplog.records
    DAMAGE[damage](folder)
    made_folder(folder, fill)
    assert str(folder) in caplog.records.pop().message
    assert (folder / "link").read_bytes() == b"content" and len(os.listdir(folder)) == 3
    made_folder(folder, lambda _: pytest.fail("it was whole"))
    assert {path.name for path in tmp_path.iterdir()} == {"made", "made.sha256", ".made.lock"}


def test_folder_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise NoBoardError("no network")

    with pytest.raises(NoBoardError):
        made_folder(tmp_path / "made", fail)
    assert os.listdir(tmp_path) == [".made.lock"]


def test_folder_whose_maker_was_killed_is_made_by_the_next_one(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from qedge.toolkit.kept import made_folder\n"
        "def fill(folder):\n"
        "    (folder / 'half').touch()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "made_folder(Path(sys.argv[1]), fill)\n"
    )
    folder = tmp_path / "made"
    assert subprocess.run([sys.executable, "-c", code, str(folder)]).returncode == -9
    assert len(list(tmp_path.glob(".made.made-*"))) == 1
    made_folder(folder, fill)
    assert not list(tmp_path.glob(".made.made-*")) and (folder / "disk").exists()


# ---- what is kept so ----


@pytest.fixture
def quick_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Firmware is a copy of /bin/true: what a compiler gives is not what is asked here."""
    script = tmp_path / "cc"
    script.write_text(
        '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done; cp /bin/true "$2"; chmod 600 "$2"\n'
    )
    script.chmod(0o755)
    found = [firmware.Compiler("cc", (str(script),), ())]
    monkeypatch.setattr(firmware, "compilers", lambda _: found)


@pytest.mark.parametrize("spoil", ["empty", "cut", "flipped"])
def test_damaged_firmware_is_built_anew_and_said(
    cache: Path, quick_compiler: None, caplog: pytest.LogCaptureFixture, spoil: str
) -> None:
    board = load("sim")
    built = firmware.build(board)
    right = built.path.read_bytes()
    assert os.access(built.path, os.X_OK)
    if spoil == "flipped":
        flip(built.path, len(right) // 2)
    else:
        built.path.write_bytes(right[: len(right) // 2] if spoil == "cut" else b"")
    caplog.clear()
    again = firmware.build(board)
    assert again.path.read_bytes() == right and os.access(again.path, os.X_OK)
    assert [str(built.path.parent) in record.message for record in caplog.records] == [True]
    caplog.clear()
    before = again.path.stat().st_mtime_ns
    firmware.build(board)
    assert again.path.stat().st_mtime_ns == before and not caplog.records


def test_damaged_wheel_is_built_anew(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The compiler is stood in for: what it gives is not what is asked here."""
    monkeypatch.setattr(wheel, "_library", lambda *_: b"a library")
    built = wheel.build_wheel("x86_64")
    right = built.path.read_bytes()
    built.path.write_bytes(right[:-100])
    again = wheel.build_wheel("x86_64")
    assert again.path.read_bytes() == right and again.sha256 == built.sha256
    assert [str(built.path) in record.message for record in caplog.records] == [True]


@pytest.mark.parametrize("name", ["id_ed25519", "host_ed25519", "id_ed25519.pub"])
def test_damaged_key_of_emulated_boards_is_made_anew(
    cache: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    first = rootfs.own_keys()
    assert rootfs.own_keys() == first and not caplog.records
    folder = first.private.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    for text in (b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"\xff" * 40):
        (folder / name).write_bytes(text)
        assert rootfs.own_keys().host_key  # readable again
        assert caplog.records
        caplog.clear()
        rootfs.own_keys()
        assert not caplog.records
    assert (folder / "id_ed25519").stat().st_mode & 0o777 == 0o600


def test_cache_that_was_filled_is_read_where_it_cannot_be_written(
    cache: Path, quick_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = firmware.build(load("sim"))

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("private_folder", "locked", "keep"):
        monkeypatch.setattr(kept, name, refuse)
    assert firmware.build(load("sim")) == built


@pytest.mark.parametrize(
    "words",
    [
        ["demo", "--board", "sim"],
        ["emulate", "sim"],
        ["emulate", "virt-a76"],
        ["flash", "{image}", "-b", "pico", "--uf2", "out.uf2"],
        ["firmware", "build", "-b", "sim"],
        ["wheel", "-b", "x86_64"],
    ],
    ids=lambda words: " ".join(words[:3:2]),
)
def test_cache_that_takes_nothing_is_a_write_error_with_its_cure(
    tmp_path: Path, words: list[str]
) -> None:
    image = tmp_path / "commander.qimg"
    build = ["build", "{model}", "-b", "pico", "-o", str(image)]
    environment = {**os.environ, "QEDGE_CACHE": str(read_only(tmp_path / "cache"))}
    from qedge.toolkit.demo import commander

    steps = [build, words] if "{image}" in words else [words]
    for step in steps:
        done = subprocess.run(
            [*COMMAND, *(word.format(image=image, model=commander()) for word in step)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=120,
        )
    assert done.returncode == WriteError.exit_code and "Traceback" not in done.stderr
    assert "WriteError: " in done.stderr and "QEDGE_CACHE" in done.stderr
    assert not list(tmp_path.glob("*.uf2"))


# ---- other programs' caches ----


def test_zig_and_npm_keep_theirs_where_the_user_can_write(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(**variables: str | None) -> str | None:
        for name in ("HOME", "XDG_CACHE_HOME", "TOOL_CACHE"):
            monkeypatch.delenv(name, raising=False)
            if variables.get(name):
                monkeypatch.setenv(name, str(variables[name]))
        places = (("XDG_CACHE_HOME", "zig"), ("HOME", ".cache/zig"))
        return tool_environment("TOOL_CACHE", *places).get("TOOL_CACHE")

    home = tmp_path / "home"
    home.mkdir()
    ours = str(cache / "tool_cache")
    assert of(HOME=str(home)) is None
    assert of(HOME=str(home), TOOL_CACHE="/elsewhere") == "/elsewhere"
    assert of() == ours and (cache / "tool_cache").is_dir()
    assert of(HOME="relative") == ours
    assert of(HOME="/proc/self/nothing") == ours  # even root makes no folder there
    assert of(HOME="/proc", XDG_CACHE_HOME=str(home)) is None
