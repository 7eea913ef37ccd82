"""New files: whole or not at all, through links, with the right permissions, never into a trap;
the cache: checked, private, one at a time."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qedge.runtime.errors import UsageError, WriteError
from qedge.toolkit import files
from qedge.toolkit.files import (
    cache_folder,
    held,
    locked,
    new_file,
    private_folder,
)

WRITES = """
import sys
from pathlib import Path
from qedge.toolkit.files import new_file
with new_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def put(path: Path, data: bytes = b"new", **options: bool) -> None:
    with new_file(path, **options) as file:
        file.write(data)


def writer(path: Path) -> subprocess.Popen[bytes]:
    """A process that is in the middle of writing path."""
    child = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(path)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    )
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    child.communicate()


# ---- permissions and links ----


def test_new_file_has_the_permissions_of_the_umask(tmp_path: Path, umask: None) -> None:
    put(tmp_path / "out")
    assert mode_of(tmp_path / "out") == 0o640


def test_replaced_file_keeps_its_permissions(tmp_path: Path, umask: None) -> None:
    path = tmp_path / "out"
    for mode in (0o600, 0o644, 0o755, 0o664):
        path.write_bytes(b"old")
        path.chmod(mode)
        put(path)
        assert path.read_bytes() == b"new" and mode_of(path) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_root_leaves_a_replaced_file_to_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    os.chown(path, 65534, 65534)
    put(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


def test_private_file_is_its_owners_alone_whatever_was_there(tmp_path: Path) -> None:
    path = tmp_path / "key"
    put(path, private=True)
    assert mode_of(path) == 0o600
    path.chmod(0o644)
    put(path, private=True)
    assert mode_of(path) == 0o600


def test_bytes_on_their_way_to_a_private_file_are_private_too(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"old")
    path.chmod(0o600)
    with new_file(path):
        (part,) = set(tmp_path.iterdir()) - {path}
        assert mode_of(part) == 0o600


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_link_stays_and_what_it_points_to_is_replaced_in_its_own_folder(
    tmp_path: Path, there: bool, relative: bool
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if there:
        (disk / "real").write_bytes(b"old")
    (tmp_path / "between").symlink_to("disk/real" if relative else disk / "real")
    (tmp_path / "out").symlink_to("between")
    with new_file(tmp_path / "out") as file:
        file.write(b"new")
        assert Path(file.name).parent == disk  # a rename works within one file system only
    assert (tmp_path / "out").is_symlink() and (tmp_path / "between").is_symlink()
    assert (disk / "real").read_bytes() == b"new" and not (disk / "real").is_symlink()
    assert sorted(path.name for path in disk.iterdir()) == ["real"]


def test_links_that_run_round_and_what_is_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to a folder").symlink_to(tmp_path)
    for name in ("a", "pipe", "to a folder", ".", "/dev/null"):
        with pytest.raises(WriteError, match="not a regular file"):
            put(tmp_path / name)
    assert (tmp_path / "a").is_symlink()


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match=f"no folder {tmp_path}/none; make it first"):
        put(tmp_path / "none" / "out")


def test_longest_name_that_a_file_system_takes_is_taken(tmp_path: Path) -> None:
    for name in ("x" * 255, "ä" * 127, "x" * 250 + ".qimg"):
        put(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"new"
    with pytest.raises(WriteError, match="nothing was written"):
        put(tmp_path / ("x" * 256))


def test_name_in_any_bytes_is_written(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"latin-\xe9")
    put(path)
    assert os.listdir(os.fsencode(tmp_path)) == [b"latin-\xe9"]


# ---- temporary names ----


def test_planted_link_is_never_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are drawn; the first that are drawn are taken here by links to what is not ours."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    names = iter(["aaaaaaaa", "bbbbbbbb", "cccccccc"])
    monkeypatch.setattr(files.os, "urandom", lambda _: bytes.fromhex(next(names)))
    folder = tmp_path / "open to all"
    folder.mkdir()
    (folder / ".out.aaaaaaaa.part").symlink_to(victim)
    os.link(victim, folder / ".out.bbbbbbbb.part")
    monkeypatch.setattr(files, "_remove_stale", lambda _: None)
    put(folder / "out")
    assert victim.read_bytes() == b"precious" and (folder / "out").read_bytes() == b"new"
    assert next(names, None) is None


def test_stale_link_to_a_file_of_ours_is_neither_followed_nor_removed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / ".out.0123abcd.part").symlink_to("victim")
    put(tmp_path / "out")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert (tmp_path / ".out.0123abcd.part").is_symlink()


def test_killed_writer_leaves_nothing_behind_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    for _ in range(2):
        child = writer(path)
        child.kill()
        end(child)
    assert path.read_bytes() == b"old"
    put(path)
    assert path.read_bytes() == b"new" and os.listdir(tmp_path) == ["out"]


def test_writer_that_lives_keeps_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "out"
    child = writer(path)
    put(path, b"other")
    assert path.read_bytes() == b"other"
    end(child)
    assert child.returncode == 0 and path.read_bytes() == b"half"
    assert os.listdir(tmp_path) == ["out"]


def test_parts_of_other_files_are_left_alone(tmp_path: Path) -> None:
    names = (".out.part", ".out.qimg.01234567.part", ".out.0123456.part", "out.01234567.part")
    for name in names:
        (tmp_path / name).touch()
    put(tmp_path / "out")
    assert set(os.listdir(tmp_path)) == {*names, "out"}


def test_folder_that_cannot_be_listed_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(files.os, "listdir", refuse)
    put(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


# ---- the disk's answers ----


@pytest.mark.parametrize(
    "number",
    [errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EROFS],
    ids=errno.errorcode.get,
)
def test_file_system_that_cannot_sync_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)
    put(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC], ids=errno.errorcode.get)
def test_failed_sync_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    (tmp_path / "out").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(WriteError, match=f"{os.strerror(number)}; nothing was written there"):
        put(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"] and (tmp_path / "out").read_bytes() == b"old"


def test_folder_that_takes_no_new_file_is_a_write_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, *_: object, **__: object) -> int:
        raise OSError(errno.EROFS, "Read-only file system", name)

    monkeypatch.setattr(files.os, "open", refuse)
    with pytest.raises(WriteError, match="out: Read-only file system; nothing was written"):
        put(tmp_path / "out")


def test_error_about_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), new_file(tmp_path / "out"):
        (tmp_path / "model").read_bytes()
    assert os.listdir(tmp_path) == []


# ---- the cache ----


def test_user_without_a_home_is_told_what_to_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QEDGE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="name a folder in QEDGE_CACHE"):
        cache_folder()


def test_named_cache_is_the_same_from_every_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QEDGE_CACHE", "kept")
    assert cache_folder() == tmp_path / "kept"


def test_folders_of_the_cache_are_this_users_alone(tmp_path: Path) -> None:
    made = private_folder(tmp_path / "a" / "b")
    assert mode_of(made) == mode_of(made.parent) == 0o700
    tmp_path.chmod(0o755)
    private_folder(tmp_path)
    assert mode_of(tmp_path) == 0o755  # not ours to change


def test_folder_that_cannot_be_made_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(WriteError, match="QEDGE_CACHE"):
            private_folder(place)


def test_lock_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from qedge.toolkit.files import locked\n"
        "with locked(Path(sys.argv[1])) as alone: print(alone, flush=True)\n"
    )
    with locked(path) as alone:
        assert alone
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
        )
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.0)
    assert child.communicate(timeout=60)[0] == "True\n"
    assert mode_of(path) == 0o600


def test_lock_that_is_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), locked(tmp_path / "lock"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_file_that_another_uses_is_refused_until_that_ends(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.touch()
    with (
        held(path, "another board runs on it"),
        pytest.raises(UsageError, match="another board runs on it"),
        held(path, "another board runs on it"),
    ):
        pass
    with held(path, "another board runs on it"):
        pass


# ---- signals ----


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT])
def test_signal_in_the_middle_of_a_file_leaves_nothing(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The command line's own start: what it does with signals, then a file."""
    code = "from qedge.toolkit.cli import end_on_signals\nend_on_signals()\n" + WRITES
    path = tmp_path / "out"
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
    )
    assert child.stdout is not None and child.stdout.readline() == b"writing\n"
    assert len(os.listdir(tmp_path)) == 1
    child.send_signal(number)
    said = child.communicate(timeout=60)[1]
    assert b"KeyboardInterrupt" in said and os.listdir(tmp_path) == []


def test_hangup_that_whoever_started_us_ignores_stays_ignored() -> None:
    code = (
        "import signal; from qedge.toolkit.cli import end_on_signals\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN); end_on_signals()\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "True\n"
