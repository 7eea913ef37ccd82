"""What people type and what they hear: guesses, options that a board cannot honour, and prompts
of every kind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from support.command import COMMAND
from support.image_bytes import WEIGHTS, parts

from qedge.runtime import ImageError, QedgeError, UsageError, WriteError
from qedge.runtime.model import Model
from qedge.toolkit import cli
from qedge.toolkit.chat import chat_tokens, prompts
from qedge.toolkit.cli import guesses

Qedge = Callable[..., "subprocess.CompletedProcess[str]"]
TURN = "<|im_start|>user\nthe rain<|im_end|>\n<|im_start|>assistant\n"


def refused(*words: object) -> str:
    """What a wrong call says, without a process of its own."""
    with pytest.raises((QedgeError, click.ClickException)) as caught:
        cli.cli.main([str(word) for word in words], prog_name="qedge", standalone_mode=False)
    if isinstance(caught.value, click.ClickException):
        return caught.value.format_message()
    return f"{type(caught.value).__name__}: {caught.value}"


# ---- verbs ----


def test_help_and_version_are_what_people_mean_by_them(qedge: Qedge) -> None:
    whole = qedge("--help").stdout
    assert qedge("help").stdout == whole and qedge("help").returncode == 0
    assert qedge("help", "run").stdout == qedge("run", "--help").stdout
    assert qedge("version").stdout == qedge("--version").stdout != ""
    assert qedge("Boards").stdout == qedge("boards").stdout


def test_help_cuts_nothing_off_and_lists_every_verb_once(qedge: Qedge) -> None:
    whole = " ".join(qedge("--help").stdout.split())
    assert "..." not in whole.split("Models:")[1]
    for name, verb in cli.cli.commands.items():
        text = " ".join((verb.help or "").split("\n\n")[0].split())
        assert f"{name} {text.split('. ')[0].rstrip('.')}" in whole
    assert "Others" not in whole
    listed = [name for names in cli.GROUPS.values() for name in names]
    assert sorted(listed) == sorted(cli.cli.commands)


@pytest.mark.parametrize(
    "words, said",
    [
        (["chat", "x.qimg"], "--chat"),
        (["list"], "qedge boards"),
        (["serve"], "no server"),
        (["quantize"], "qedge build"),
        (["bords"], "Did you mean 'boards'?"),
        (["x.qimg", "hi"], "qedge run x.qimg"),
        (["--json", "boards"], "qedge boards … --json"),
        (["--threads", "2", "run", "x"], "qedge run … --threads"),
        (["run", "x", "hi", "--quant", "q4_0"], "qedge build … --quant"),
        (["run", "x", "hi", "--sed", "1"], "--seed"),
        (["run", "picoo", "hi"], "did you mean pico?"),
        (["run", "comander", "hi"], "did you mean commander?"),
        (["run", "x86-64", "hi"], "machine's profile"),
        (["zzz"], "qedge help"),
        (["--zzz"], "--zzz"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_guess_is_answered_with_what_to_type(words: list[str], said: str) -> None:
    assert said in refused(*words)


def test_hints_name_verbs_and_options_that_there_are() -> None:
    context = click.Context(cli.cli)
    for word, hint in guesses.HINTS.items():
        assert word not in cli.cli.commands
        if "qedge " not in hint:
            continue
        name, *rest = hint.split("qedge ")[1].split()
        verb = cli.cli.get_command(context, name)
        assert verb is not None, hint
        known = {option for parameter in verb.params for option in parameter.opts} | {"--help"}
        assert {word for word in rest if word.startswith("-")} <= known, hint


def test_prompt_by_p_is_told_apart_from_a_port(qedge: Qedge, tiny_image: Path) -> None:
    done = qedge("run", tiny_image, "-p", "Hello")
    assert done.returncode == 2 and f'qedge run {tiny_image} "Hello"' in done.stderr
    done = qedge("run", tiny_image, "hi", "-p", "/dev/ttyX")
    assert done.returncode == 2 and "board's port" in done.stderr
    done = qedge("run", tiny_image)
    assert done.returncode == 2 and "- for standard input" in done.stderr


@pytest.mark.parametrize("verb", ["run", "bench", "test"])
@pytest.mark.parametrize(
    "option",
    [
        *(["--threads", "4"], ["--context", "64"], ["--batch", "1"], ["--memory", "1M"]),
        *(["--kernels", "avx2"], ["--pin"], ["--allow-paging"]),
    ],
    ids=lambda option: option[0],
)
def test_option_that_a_board_cannot_honour_is_refused_by_name(
    verb: str, option: list[str]
) -> None:
    words = [verb, "pico", *(["hi"] if verb == "run" else []), *option, "-p", "/dev/null"]
    assert refused(*words).startswith(f"UsageError: {option[0]} ")


def test_other_options_of_images_are_refused_for_boards_and_the_other_way(
    tiny_image: Path,
) -> None:
    for words in (
        ["run", "pico", "hi", "--verify"],
        ["bench", "pico", "--cold"],
        ["bench", "pico", "--rounds", "6-9"],
        ["bench", "pico", "--within", "3"],
        ["run", str(tiny_image), "hi", "--identity", "key"],
    ):
        option = next(word for word in words if word.startswith("--"))
        assert refused(*words).startswith(f"UsageError: {option} ")


# ---- prompts ----


def test_written_turn_tokens_count_with_special_only(qedge: Qedge, tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        counted = [len(model.tokenize(TURN, special=special)) for special in (False, True)]
    for options, expected in (([], counted[0]), (["--special"], counted[1])):
        done = qedge("run", tiny_image, "-", "-n", "1", "--json", *options, input=TURN)
        assert json.loads(done.stdout)["prompt_tokens"] == expected


def test_system_message_and_chat_are_the_templates_turns(
    qedge: Qedge, tiny_image: Path
) -> None:
    user = {"role": "user", "content": "the rain"}
    system = {"role": "system", "content": "Be brief."}
    with Model.open(tiny_image) as model:
        expected = [len(chat_tokens(model, turns)) for turns in ([user], [system, user])]
    for options, count in ((["--chat"], expected[0]), (["--system", "Be brief."], expected[1])):
        done = qedge("run", tiny_image, "the rain", "-n", "1", "--json", *options)
        assert json.loads(done.stdout)["prompt_tokens"] == count
    done = qedge("run", tiny_image, "the rain", "--raw", "--chat")
    assert done.returncode == 2 and "--raw" in done.stderr


def test_control_token_in_a_message_is_text(qedge: Qedge, tiny_image: Path) -> None:
    with Model.open(tiny_image) as model:
        plain = len(model.tokenize("<|im_end|>"))
    counts = []
    for text, options in (("x", []), ("<|im_end|>", []), ("<|im_end|>", ["--special"])):
        done = qedge("run", tiny_image, text, "--chat", "-n", "1", "--json", *options)
        counts.append(json.loads(done.stdout)["prompt_tokens"])
    assert counts == [counts[0], counts[0] + plain - 1, counts[0]]


class Board:
    """A board's end of the link that has an image's sections and nothing else."""

    name = "board"

    def __init__(self, path: Path) -> None:
        with Model.open(path) as model:
            self._sections = {kind: model.image.section(kind) for kind in range(1, 11)}

    def section(self, kind: int) -> bytes | None:
        return self._sections.get(kind)


ASKED: dict[str, Any] = {"chat": False, "system": None, "raw": False, "special": False}


def refuse() -> bytes:
    raise WriteError("an older board")


def test_board_is_given_the_rendered_conversation(tiny_image: Path) -> None:
    board = Board(tiny_image)
    assert prompts.text_there(board, b"the rain", **ASKED) == (b"the rain", {"special": False})
    assert prompts.text_there(board, b"x", **ASKED | {"special": True}) == (
        b"x",
        {"special": True},
    )
    assert prompts.text_there(board, b"the rain", **ASKED | {"chat": True}) == (
        TURN.encode(),
        {"special": True, "bos": False},
    )
    text, _ = prompts.text_there(board, b"the rain", **ASKED | {"system": "S"})
    assert text.startswith(b"<|im_start|>system\nS<|im_end|>")
    with pytest.raises(UsageError, match="--special"):
        prompts.text_there(board, b"<|im_end|>", **ASKED | {"chat": True})
    board.section = lambda kind: refuse()  # type: ignore[method-assign]
    assert prompts.text_there(board, b"the rain", **ASKED) == (b"the rain", {"special": False})
    with pytest.raises(WriteError):
        prompts.text_there(board, b"the rain", **ASKED | {"chat": True})
    board.section = lambda kind: None  # type: ignore[method-assign]
    with pytest.raises(ImageError, match="no chat template"):
        prompts.text_there(board, b"the rain", **ASKED | {"chat": True})


ANSWERS = {  # of examples/commander/README.md
    "Make the bedroom a bit warmer": (
        '{"device": "heating", "room": "bedroom", "action": "warmer"}'
    ),
    "turn off the lamp": '{"device": "lamp", "room": null, "action": "off"}',
    "what is the capital of france?": '{"device": null, "room": null, "action": null}',
    "turn on the oven": '{"device": null, "room": null, "action": null}',
    "hello": '{"device": null, "room": null, "action": null}',
}


def test_a_template_that_takes_no_system_message_is_given_its_own_tokens() -> None:
    from qedge.toolkit.chat.facts import Conversation

    facts = Conversation({"bos_token": "<s>"}, ("<s>",), False)
    every = "{{ bos_token + messages[-1].content }}"  # fails without that token
    with pytest.raises(UsageError, match="takes no system message"):
        prompts._check_system(every, facts, "hi", "Be brief.")
    prompts._check_system("{{ bos_token + messages[0].content }}", facts, "hi", "Be brief.")


def test_commanders_template_ends_a_command_wherever_it_runs(
    qedge: Qedge, tmp_path: Path
) -> None:
    from qedge.toolkit.board import load
    from qedge.toolkit.demo import COMMAND as command
    from qedge.toolkit.demo import commander
    from qedge.toolkit.make.build import build

    image = build(commander(), load("host"), tmp_path / "commander.qimg").image
    answers = {
        json.loads(qedge("run", image, text, "--json").stdout)["text"]
        for text in (command, f"{command}\n", f"  {command} ")
    }
    assert answers == {'{"device": "lamp", "room": "kitchen", "action": "off"}'}
    for text, answer in ANSWERS.items():
        assert qedge("run", image, text).stdout == f"{answer}\n"
    raw = json.loads(qedge("run", image, command, "--raw", "--json").stdout)
    assert raw["text"] not in answers
    board = Board(image)
    assert prompts.text_there(board, command.encode(), **ASKED)[0] == f"{command}\n".encode()
    with pytest.raises(UsageError, match="takes no system message"):
        prompts.text_there(board, b"x", **ASKED | {"system": "Be brief."})
    assert "takes no system" in qedge("run", image, "x", "--system", "Be brief.").stderr
    assert prompts.text_there(board, b"x", **ASKED | {"raw": True}) == (
        b"x",
        {"special": False},
    )


def test_the_model_that_ships_goes_by_its_name(
    qedge: Qedge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qedge.toolkit.demo import COMMAND as command

    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "cache"))
    done = qedge("run", "commander", command, cwd=tmp_path)
    assert done.stdout == '{"device": "lamp", "room": "kitchen", "action": "off"}\n'
    done = qedge("build", "commander", "-b", "pico", "-o", "c.qimg", cwd=tmp_path)
    assert done.returncode == 0 and (tmp_path / "c.qimg").stat().st_size == 659488


def test_name_or_model_becomes_an_image(
    qedge: Qedge, tiny_gguf: Path, tiny_image: Path
) -> None:
    for target in ("smollm2-135m", "hf:org/repo/file.gguf", str(tiny_gguf)):
        code = (
            "import sys, types\n"
            "auto = types.ModuleType('auto')\n"
            "def image_for(target, say, progress=None):\n"
            f"    assert target == {target!r}\n"
            "    say('built once')\n"
            f"    return {str(tiny_image)!r}\n"
            "auto.image_for = image_for\n"
            "sys.modules['qedge.toolkit.make.auto'] = auto\n"
            "import qedge.toolkit.make\n"
            "qedge.toolkit.make.auto = auto\n"
            "from qedge.toolkit.cli import main\n"
            "main()\n"
        )
        for verb in (
            ["run", target, "hi", "-n", "1"],
            ["test", target],
            ["bench", target, "--prompt-tokens=4", "--decode-tokens=2", "--repeat=1"],
        ):
            words = [sys.executable, "-c", code, *verb]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            assert done.returncode == 0 and done.stderr.startswith("built once\n"), done.stderr


# ---- images that are damaged ----


def test_damaged_file_is_not_blamed_on_the_engine(
    qedge: Qedge, tiny_image: Path, tmp_path: Path
) -> None:
    data = bytearray(tiny_image.read_bytes())
    data[parts(data).sections[WEIGHTS][0] + 100] ^= 0x40
    path = tmp_path / "damaged.qimg"
    path.write_bytes(data)
    for words in (["test", path], ["run", path, "hi", "--verify"]):
        done = qedge(*words)
        assert done.returncode == 6 and "copy it again" in done.stderr
    assert qedge("run", path, "hi", "-n", "1").returncode == 0
    assert qedge("run", tiny_image, "hi", "-n", "1", "--verify").returncode == 0


def test_a_board_is_not_inspected_as_a_file(qedge: Qedge) -> None:
    for words in (["inspect", "pico"], ["tokenize", "pico", "x"], ["eval", "pico", __file__]):
        done = qedge(*words)
        assert done.returncode == 2 and "boards --connected" in done.stderr


def test_tokenize_takes_control_tokens_as_text_unless_asked(qedge: Qedge) -> None:
    from qedge.toolkit.demo import commander

    plain, special = (
        json.loads(qedge("tokenize", commander(), "<|end|>x", "--json", *more).stdout)["tokens"]
        for more in ((), ("--special",))
    )
    assert special == [0, plain[-1]] and 0 not in plain


# ---- in Python ----


def test_chat_in_python_is_the_answer_to_the_templates_tokens(tiny_image: Path) -> None:
    messages = [{"role": "user", "content": "the rain"}]
    with Model.open(tiny_image) as model:
        expected = "".join(model.generate(chat_tokens(model, messages), 8))
        assert "".join(model.chat(messages, 8)) == expected
        with pytest.raises(UsageError, match="model.chat"):
            model.generate(messages)
        with pytest.raises(UsageError, match="messages"):
            model.chat("hi")


def test_chat_without_the_toolkit_says_what_to_install(
    tiny_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "qedge.toolkit.chat", None)
    with Model.open(tiny_image) as model, pytest.raises(UsageError, match="jinja2"):
        model.chat([{"role": "user", "content": "hi"}])


# ---- boards, before one is looked for ----


def test_identity_is_refused_for_a_board_without_ssh(tiny_image: Path) -> None:
    for words in (
        ["run", "pico", "hi"],
        ["reset", "pico"],
        ["flash", tiny_image, "-b", "pico"],
    ):
        said = refused(*words, "--identity", "key", "-p", "/dev/null")
        assert said.startswith("UsageError: --identity is for boards")


@pytest.mark.parametrize(
    "option",
    [
        *(["--seed", "-1"], ["--seed", str(1 << 64)], ["--top-k", "-1"], ["--top-p", "2"]),
        *(["--min-p", "-1"], ["--temperature", "-1"], ["--repeat-penalty", "0"], ["-n", "0"]),
        *(["--stop", ""], ["-n", str(1 << 40)]),
    ],
    ids=" ".join,
)
def test_wrong_sampling_is_a_usage_error_before_a_board_is_asked(option: list[str]) -> None:
    assert option[0] in refused("run", "pico", "hi", *option, "-p", "/dev/null")


@pytest.mark.parametrize(
    "words, found",
    [
        (["build", "-b", "mps2-m"], "mps2-m4"),
        (["run", "pico"], "pico2"),
        (["reset", "pi-z"], "pi-zero2"),
        (["build", "--quant", "q4"], "q4_0"),
        (["firmware", "build", "-b", "mps2-m"], "mps2-m7"),
        (["fl"], "flash"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_tab_completes_verbs_boards_and_types(words: list[str], found: str) -> None:
    surroundings = {
        **os.environ,
        "_QEDGE_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["qedge", *words]),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run(
        COMMAND, env=surroundings, capture_output=True, text=True, check=False
    )
    assert f"plain,{found}" in done.stdout.splitlines(), done.stdout + done.stderr


def test_b_names_a_board_whatever_lies_here(
    qedge: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "pi5").mkdir()
    (tmp_path / "pico").write_text("notes")
    for words, code, said in (
        (["run", "-b", "pi5", "hi"], 2, "pi5: give its address with -p user@host"),
        (["test", "-b", "pi5"], 2, "pi5: give its address with -p user@host"),
        (["bench", "-b", "pico", "--cold"], 2, "--cold"),
        (["run", "-b", "pico", "x.qimg", "hi"], 2, "leave x.qimg out"),
        (["test", "-b", "pico", "x.qimg"], 2, "leave x.qimg out"),
        (["run", "-b", "x86-64", "hi"], 2, "is a machine's profile"),
        (["run", "-b", "picoo", "hi"], 3, "did you mean pico?"),
        (["run", "-b", "pico"], 2, "Missing argument 'PROMPT'"),
        (["test"], 2, "an image, or a board by -b"),
        (["rollback"], 2, "-b BOARD"),
        (["reset", "pico", "-b", "pico"], 2, "-b BOARD"),
    ):
        done = qedge(*words, cwd=tmp_path)
        assert done.returncode == code and said in done.stderr, (words, done.stderr)
