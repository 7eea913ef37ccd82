"""The command line's streams and signals: what cannot be written or read, what ends it, and
what a terminal is shown."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.command import COMMAND, VERBS_OF_AN_IMAGE, waiting_build
from support.tiny_models import TinyConfig, make_weights, write_gguf

from qedge.runtime import BudgetError, ImageError, QedgeError, WriteError
from qedge.toolkit import cli
from qedge.toolkit.cli import show

Qedge = Callable[..., "subprocess.CompletedProcess[str]"]


# ---- streams ----


@pytest.mark.parametrize("verb", VERBS_OF_AN_IMAGE, ids=lambda verb: verb[0])
def test_full_device_on_standard_output_is_a_write_error(
    tiny_image: Path, tmp_path: Path, verb: list[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("the rain " * 40)
    words = [word.format(image=tiny_image, text=text) for word in verb]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 8 and b"Traceback" not in done.stderr
    assert b"WriteError: standard output: No space left on device" in done.stderr


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["--version"], []], ids=str)
def test_help_that_nobody_can_read_is_no_bug(words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        piped = ["bash", "-o", "pipefail", "-c", 'exec "$@" | true', "sh", *COMMAND, *words]
        done = subprocess.run(piped, capture_output=True, check=False)
        assert b"Traceback" not in done.stderr and done.returncode in (0, 2)
        done = subprocess.run(
            [*COMMAND, *words], stdout=full, stderr=subprocess.PIPE, check=False
        )
    if words:  # without any, help is an error's text
        assert done.returncode == 8
        assert b"WriteError: standard output: No space left on device" in done.stderr


def test_closed_streams_are_no_bug(tiny_image: Path) -> None:
    for closed in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        shell = f'exec "$@" {closed}'
        words = [*COMMAND, "run", str(tiny_image), "hi", "-n", "3"]
        done = subprocess.run(
            ["sh", "-c", shell, "sh", *words], capture_output=True, check=False
        )
        assert done.returncode == 0 and b"Traceback" not in done.stderr, closed


def test_reader_that_leaves_is_no_failure(tiny_image: Path, long_image: Path) -> None:
    for words in (["run", str(long_image), "hi", "-n", "20"], ["inspect", str(tiny_image)]):
        child = subprocess.Popen(
            [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        child.stdout.close()
        said = child.stderr.read()
        child.stderr.close()
        assert child.wait(60) == 0 and b"Traceback" not in said and b"Exception" not in said


def test_letters_that_the_terminal_lacks_are_no_failure(tiny_image: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    words = ["run", str(tiny_image), "hi", "-n", "40", "--temperature", "3"]
    done = subprocess.run([*COMMAND, *words], capture_output=True, env=environment, check=False)
    assert done.returncode == 0 and done.stdout.isascii()


# ---- interrupted ----


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_at_once_with_exit_code_2(
    long_image: Path, number: signal.Signals
) -> None:
    command = [
        *COMMAND,
        "run",
        str(long_image),
        "the rain",
        "-n",
        "100000",
        "--temperature",
        "1",
    ]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert os.read(child.stdout.fileno(), 1)  # it generates
    child.send_signal(number)
    _, said = child.communicate(timeout=20)
    assert child.returncode == 2 and said.strip() == b"interrupted"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_build_leaves_nothing(
    big_gguf: Path, tmp_path: Path, number: signal.Signals
) -> None:
    child = waiting_build(big_gguf, "-b", "x86-64", "-o", tmp_path / "out.qimg")
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    child.send_signal(number)
    said = child.stderr.read()
    assert child.wait(20) == 2 and said.strip() == b"interrupted"
    assert list(tmp_path.iterdir()) == []
    for stream in (child.stdin, child.stdout, child.stderr):
        stream.close()


# ---- the system ----


def test_full_standard_error_is_a_write_error_and_hides_no_other(tiny_image: Path) -> None:
    for words, code in (
        (["run", str(tiny_image), "hi", "-n", "2"], 8),
        (["run", "none", "hi"], 6),
    ):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [*COMMAND, *words], stdout=subprocess.PIPE, stderr=full, check=False
            )
        assert done.returncode == code
        assert bool(done.stdout) == (code == 8)  # the answer is there, whole


@pytest.mark.parametrize(
    "number, name, kind, said",
    [
        (errno.ENOMEM, None, BudgetError, "Cannot allocate memory"),
        (errno.EMFILE, "x", BudgetError, "x: Too many open files"),
        (errno.ENOSPC, "cache/x", WriteError, "cache/x: No space"),
        (errno.EROFS, "cache", WriteError, "cache: Read-only"),
        (errno.EACCES, None, WriteError, "Permission denied"),
        (errno.ENOENT, "here", ImageError, "here: No such file"),
        (errno.EPIPE, None, WriteError, "Broken pipe"),
    ],
)
def test_refusal_of_the_system_is_told_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    name: str | None,
    kind: type[QedgeError],
    said: str,
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(cli.cli.commands["boards"], "callback", refuse)
    with pytest.raises(kind, match=said) as caught:
        cli.cli.main(["boards"], standalone_mode=False)
    assert "standard output" not in str(caught.value)


def test_hang_up_ends_a_run_as_ctrl_c_does(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, qedge.toolkit.cli as cli\n"
        "def wait(*a, **k):\n"
        "    print('here', flush=True)\n"
        "    sys.stdin.read()\n"
        "cli.cli.commands['boards'].callback = wait\n"
        "sys.argv[1:] = ['boards']\n"
        "cli.main()\n"
    )
    for number in (signal.SIGHUP, signal.SIGTERM):
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # under nohup, too
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE),
        )
        assert child.stdout.readline() == b"here\n"
        child.send_signal(number)
        _, said = child.communicate(timeout=20)
        assert child.returncode == 2 and said.strip() == b"interrupted"


def test_error_with_json_comes_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qedge", "boards", "--json"])
    monkeypatch.setattr(show, "open_streams", lambda: None)
    monkeypatch.setattr(cli, "end_on_signals", lambda: None)
    error = {"error": "BudgetError", "message": "too much", "exit_code": 7}
    for answered, expected in ((None, error), ({"answer": 1}, {"answer": 1})):

        def fail(as_json: bool, first: Any = answered, **_: Any) -> None:
            cli.common.emit(as_json and first is not None, first or {})
            raise BudgetError("too much")

        monkeypatch.setattr(cli.cli.commands["boards"], "callback", fail)
        monkeypatch.setattr(cli.common, "emitted", False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, said = capsys.readouterr()
        assert ended.value.code == 7 and json.loads(out) == expected
        assert said == "BudgetError: too much\n"


# ---- what a terminal is shown ----


def terminal(*words: str) -> str:
    """What a verb shows on a terminal."""
    ours, theirs = pty.openpty()
    child = subprocess.Popen([*COMMAND, *words], stdout=theirs, stderr=theirs)
    os.close(theirs)
    found = b""
    try:
        while piece := os.read(ours, 65536):
            found += piece
    except OSError:  # the other end was closed
        pass
    os.close(ours)
    child.wait(60)
    return found.decode()


def test_terminal_is_shown_escape_sequences_and_never_obeys_them(
    tmp_path: Path, qedge: Qedge
) -> None:
    from qedge.toolkit.board import load
    from qedge.toolkit.make.build import build

    config = TinyConfig(layers=1, dim=32, ffn=32, heads=4, kv_heads=2, context=32)
    gguf = write_gguf(tmp_path / "x.gguf", config, make_weights(1, config))
    gguf.write_bytes(gguf.read_bytes().replace(b"tiny", b"\x1b[8m", 1))  # its name: hidden text
    image = build(gguf, load("x86-64"), tmp_path / "x.qimg", quant="f32").image
    for shown in (terminal("inspect", str(image)), qedge("inspect", image).stdout):
        assert "\\x1b[8m" in shown and "\x1b[8m" not in shown
    told = json.loads(qedge("inspect", image, "--json").stdout)
    assert told["provenance"]["model"] == "\x1b[8m"
    shown = terminal("inspect", f"{tmp_path}/\x1b]0;owned\x07\u202e.qimg")
    assert "\\x1b]0;owned\\x07\\u202e" in shown and "\x1b]0" not in shown


def test_generated_text_is_safe_on_a_terminal_and_whole_for_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "a\tb\n\x1b[31mé\u202e\x07\r"
    show.piece(text)
    assert capsys.readouterr().out == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    show.piece(text)
    assert capsys.readouterr().out == "a\tb\n\\x1b[31mé\\u202e\\x07\\x0d"


def test_steps_are_said_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with show.bar(True, lines=True) as tell:
        for step, done in (("send", 1), ("send", 2), ("verify", 1)):
            tell(step, done, 2)
    assert capsys.readouterr().err == "send\nverify\n"
    with show.bar(True) as tell:
        assert tell is None
