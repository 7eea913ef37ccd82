"""pytest plugin `qedge`: a user's tests against a board, real or emulated (docs/testing.md).

    pytest --board pico --port /dev/ttyACM0 --qedge-image model.qimg

    def test_it_knows_the_lamp(flashed_board):
        assert "lamp" in flashed_board.run("turn off the light in the kitchen").text

    @pytest.mark.qedge_tokens_per_second(minimum=5)
    @pytest.mark.qedge_memory(maximum=200_000)
    def test_it_is_fast_and_small(flashed_board): ...

`--port labgrid:PLACE` takes a place of a labgrid coordinator for the session (--lg-coordinator,
or LG_COORDINATOR); --lg-env FILE a labgrid environment's target instead of --port.

Without any of them an emulated board is used; where its emulator is missing, tests skip and say
what to install, and in CI (environment variable CI) they fail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # every pytest of this environment loads this module: it imports little
    from qedge.toolkit.board import Board
    from qedge.toolkit.device.flash import Flashed
    from qedge.toolkit.device.there import BoardTarget
    from qedge.toolkit.link import Hello, LinkedDevice

DEFAULT_BOARD = "sim"
_REASON = pytest.StashKey[str]()  # why there is no board
_MARKS = {"qedge_tokens_per_second": "minimum", "qedge_memory": "maximum"}  # what each takes


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run gave."""

    text: str
    tokens: list[int]
    finish_reason: str | None
    fields: dict[str, Any]  # as `qedge run --json` has them


@dataclass(slots=True)
class BoardUnderTest:
    """A board with a link to it. `flashed` is None until an image was put on it."""

    board: Board
    port: str
    device: LinkedDevice
    hello: Hello
    flashed: Flashed | None = None
    image: Path | None = field(default=None)

    def flash(self, image: Path | str) -> Flashed:
        """Puts an image on the board; nothing is sent when it is active."""
        from qedge.toolkit.device import flash

        self.image = Path(image)
        plan = flash.plan(self.device, self.image, self.board)
        self.flashed = flash.apply(self.device, plan)
        return self.flashed

    def run(
        self,
        prompt: str,
        max_tokens: int = 64,
        *,
        chat: bool = False,
        system: str | None = None,
        raw: bool = False,
        special: bool = False,
        **options: Any,
    ) -> Answer:
        """Generates text on the board.

        chat, system, raw, special: as of `qedge run`: through the image's chat template, with a
        system message, the prompt as it is, and whether control tokens written in it count.
        options: as of `Model.generate`.
        """
        running = self._target.generate(
            prompt, max_tokens, chat=chat, system=system, raw=raw, special=special, **options
        )
        text = "".join(running)
        fields = running.fields()
        return Answer(text, fields["tokens"], fields["finish_reason"], fields)

    @property
    def _target(self) -> BoardTarget:
        from qedge.toolkit.device.there import on_board

        return on_board(self.board, self.device, self.device.hello())

    def test(self) -> str:
        """Runs the golden test; the logits_hash."""
        return str(self._target.test()["logits_hash"])

    def bench(self, prompt_tokens: int = 8, decode_tokens: int = 8) -> dict[str, Any]:
        """Rates on silicon; instructions a token on an emulator."""
        from qedge.toolkit.device import remote

        times = remote.bench(
            self.device, prompt_tokens=prompt_tokens, decode_tokens=decode_tokens, depth=0
        )
        return times.fields(self.hello, self.board)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("qedge", "boards that run language models")
    group.addoption("--board", help=f"The board's name; default: {DEFAULT_BOARD} (emulated).")
    group.addoption("--port", help="The board's port; default: an emulated board is started.")
    group.addoption("--identity", help="A private key, for a board that is reached by ssh.")
    group.addoption("--qedge-image", help="The image; default: commander, built for the board.")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> None:
    """labgrid's options, unless its own plugin has them: by now all plugins are loaded."""
    group = parser.getgroup("qedge", "boards that run language models")
    for name, text in (
        ("--lg-coordinator", "labgrid's coordinator, HOST[:PORT]."),
        ("--lg-env", "A labgrid environment file."),
    ):
        with suppress(ValueError):
            group.addoption(name, help=text)


def pytest_configure(config: pytest.Config) -> None:
    given = [name for name in ("--lg-env", "--lg-coordinator") if config.getoption(name, None)]
    if given:
        from qedge.toolkit.lab import missing

        if need := missing():
            raise pytest.UsageError(f"{' and '.join(given)}: {need}")
    if (name := config.getoption("--board")) is not None:
        _check_board(name, anywhere=bool(given) or config.getoption("--port") is not None)
    for line in (
        "qedge_tokens_per_second(minimum): the board decodes at least so fast; emulated boards "
        "cannot tell, and skip",
        "qedge_memory(maximum): arena and stack on the board take at most so many bytes",
    ):
        config.addinivalue_line("markers", line)


def _check_board(name: str, anywhere: bool) -> None:
    """UsageError for a --board that no test can ever run on. anywhere: it may have a port."""
    from qedge.runtime.errors import QedgeError
    from qedge.toolkit.board import load

    try:
        found = load(name)
    except QedgeError as error:
        raise pytest.UsageError(f"--board: {_shown(error)}") from None
    kind = found.linux or found.device
    if kind is None:
        raise pytest.UsageError(f"--board {name}: is a machine's profile, not a board")
    if not anywhere and not kind.emulator:
        raise pytest.UsageError(f"--board {name}: it has no emulator; give a real one's --port")


@contextmanager
def _failing() -> Iterator[None]:
    """A failure of ours in a fixture, as a line: our own source has nothing to tell."""
    from qedge.runtime.errors import QedgeError

    try:
        yield
    except QedgeError as error:
        pytest.fail(f"{type(error).__name__}: {_shown(error)}", pytrace=False)


def _shown(error: Exception) -> str:
    from qedge.runtime.text import printable

    return printable(str(error), keep="\n")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A mark that could not fail is an error before anything runs."""
    for item in items:
        for mark in item.iter_markers():
            if mark.name.startswith("qedge_"):
                _limit(mark, item.nodeid)


def _limit(mark: pytest.Mark, where: str) -> float:
    """The one number of a mark. UsageError when it is called another way."""
    name = _MARKS.get(mark.name)
    if name is None:
        known = " and ".join(_MARKS)
        raise pytest.UsageError(f"{where}: no mark is called {mark.name}; there are {known}")
    given = [*mark.args, *mark.kwargs.values()]
    value: Any = given[0] if len(given) == 1 else None
    right = type(value) in (int, float) and value > 0 and value < float("inf")
    if set(mark.kwargs) - {name} or not right:
        words = ", ".join(
            [*map(repr, mark.args), *(f"{k}={v!r}" for k, v in mark.kwargs.items())]
        )
        raise pytest.UsageError(
            f"{where}: {mark.name}({words}); it takes one number above zero: {name}=…"
        )
    return float(value)


def _absent(message: str, config: pytest.Config) -> None:
    """No board: tests skip, and the session's end says why; in CI they fail."""
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    config.stash[_REASON] = message
    pytest.skip(message)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Why tests were skipped is said without -rs, too: they look like passed ones."""
    if (reason := config.stash.get(_REASON, None)) is not None:
        terminalreporter.write_line(f"qedge: tests were skipped, no board: {reason}")


@contextmanager
def _port_given(config: pytest.Config, chosen: Board) -> Iterator[str | None]:
    """The port that was given, or that labgrid has for what was given; None: emulate."""
    from qedge.toolkit import lab

    port = config.getoption("--port")
    coordinator = config.getoption("--lg-coordinator", None)
    environment: Any = config.getoption("--lg-env", None)
    if environment is not None and config.pluginmanager.has_plugin("labgrid"):
        from labgrid.pytestplugin.hooks import LABGRID_ENV_KEY

        environment = config.stash.get(LABGRID_ENV_KEY, environment)
    if port is None and environment is not None:
        with lab.environment_port(chosen, environment, coordinator=coordinator) as found:
            yield found
        return
    if lab.is_place(port) and coordinator is None and environment is not None:
        coordinator = lab.environment_coordinator(environment)
    with lab.real_port(chosen, port, coordinator=coordinator) as found:
        yield found


@pytest.fixture(scope="session")
def board(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BoardUnderTest]:
    """The board that was named, or an emulated one; a session long."""
    from qedge.runtime.errors import FetchError, NoBoardError, UsageError
    from qedge.toolkit.board import load
    from qedge.toolkit.device.reach import reach
    from qedge.toolkit.emulators.choose import emulated, missing

    chosen = load(request.config.getoption("--board") or DEFAULT_BOARD)
    identity = request.config.getoption("--identity")
    with _failing(), _port_given(request.config, chosen) as port:
        if port is not None:
            with reach(chosen, port, identity) as found:
                yield BoardUnderTest(chosen, port, found.device, found.hello)
            return
    if need := missing(chosen):
        _absent(f"{need}; or give --port", request.config)
    place = tmp_path_factory.mktemp("board") / "flash.bin"
    try:
        made = emulated(chosen, place)
    except (NoBoardError, UsageError, FetchError) as error:  # or no compiler, no network
        _absent(_shown(error), request.config)
        raise
    with _failing(), made as running:
        running.facts()
        key = None if running.identity is None else str(running.identity)
        with reach(chosen, running.port, key) as found:
            yield BoardUnderTest(chosen, running.port, found.device, found.hello)


@pytest.fixture(scope="session")
def qedge_image(
    request: pytest.FixtureRequest,
    board: BoardUnderTest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The image that was named, or commander's for the board."""
    named = request.config.getoption("--qedge-image")
    if named is not None:
        return Path(named)
    from qedge.toolkit.make.build import build
    from qedge.toolkit.source.locate import commander

    output = tmp_path_factory.mktemp("image") / "commander.qimg"
    with _failing():
        return build(commander(), board.board, output).image


@pytest.fixture
def flashed_board(
    request: pytest.FixtureRequest, board: BoardUnderTest, qedge_image: Path
) -> BoardUnderTest:
    """The board with the image active; the marks' limits are checked before the test runs."""
    with _failing():
        board.flash(qedge_image)
    for mark in request.node.iter_markers("qedge_tokens_per_second"):
        minimum = _limit(mark, request.node.nodeid)
        rate = board.bench()["decode_tokens_per_second"]
        if rate is None:
            pytest.skip(f"{board.board.name} is emulated and cannot tell tokens a second")
        assert rate >= minimum, f"{rate:.2f} tokens/s, at least {minimum} are asked for"
    for mark in request.node.iter_markers("qedge_memory"):
        maximum = _limit(mark, request.node.nodeid)
        board.test()  # uses the stack as deep as anything does
        from qedge.runtime.image import open_image

        used = open_image(qedge_image).plan["arena_bytes"] + board.device.hello().stack_used
        assert used <= maximum, f"arena and stack take {used:,} bytes, at most {maximum:,}"
    return board


@pytest.fixture
def device(board: BoardUnderTest) -> LinkedDevice:
    """The link to the board, for tests of messages."""
    from qedge.runtime.errors import QedgeError

    try:
        board.device.hello()
    except QedgeError as error:
        pytest.fail(f"the board no longer answers: {error}")
    return board.device
