"""A board as a target: one that answers the link, a microcontroller or one with Linux."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qedge.runtime.arguments import whole
from qedge.runtime.errors import QedgeError, UsageError
from qedge.runtime.image import PLAN
from qedge.runtime.measure.rounds import FIELDS
from qedge.runtime.sizes import parse_size
from qedge.toolkit.board import Board, load
from qedge.toolkit.chat.prompts import text_there
from qedge.toolkit.device import flash, remote
from qedge.toolkit.device.reach import reach
from qedge.toolkit.device.target import SESSION, Ask, Progress, Rounds
from qedge.toolkit.link import Hello, LinkedDevice
from qedge.toolkit.make.predict import predict_measured

_MOST = {"context": (1 << 32) - 1, "threads": 64, "batch": 512}


class BoardTarget:
    """A board that answers; of itself a microcontroller, which runs by its image's plan and has
    no say in how. `BoardTarget.connect` (`qedge.Board.connect`) reaches one."""

    def __init__(
        self, board: Board, device: LinkedDevice, hello: Hello, **session: Any
    ) -> None:
        """session: options of `Model.open`. UsageError for what it cannot honour."""
        self.facts, self.device, self.hello = board, device, hello
        self.name = self.board = board.name
        self._session = session_of(board, session)
        if self._session and not hello.options:
            raise UsageError(
                f"{_option(next(iter(self._session)))}: the runtime on this board is older "
                "than that option; leave it out, or flash once with this qedge"
            )

    @staticmethod
    @contextmanager
    def connect(
        board: str,
        port: str | None = None,
        *,
        identity: str | None = None,
        say: Callable[[str], None] = lambda text: None,
        **session: Any,
    ) -> Iterator[BoardTarget]:
        """A board by its name, for as long as `with` lasts.

            with Board.connect("pi5", "pi@raspberrypi.local", threads=4) as board:
                for piece in board.generate("Once upon a time", 64): ...

        port      a serial port or URL, user@host, or labgrid:PLACE; default: looks for a
                  microcontroller's line
        identity  a private key for ssh; default: as the user's ssh configuration says
        say       is told what takes time, and what was found wrong
        session   options of `Model.open`, which a board with Linux honours

        NoBoardError when none answers, WrongBoardError for another one, UsageError."""
        facts = load(board)
        with reach(facts, port, identity, say) as found:
            yield on_board(facts, found.device, found.hello, **session)

    def generate(
        self,
        prompt: str | bytes,
        max_tokens: int = 256,
        *,
        chat: bool = False,
        system: str | None = None,
        raw: bool = False,
        special: bool = False,
        hash: bool = False,
        stop: str | tuple[str, ...] = (),
        **sampling: Any,
    ) -> RunningThere:
        """Text pieces as they are asked for, and `fields()` behind the last one. chat, system,
        raw, special: as of `qedge run`; the rest as of `Model.generate`."""
        data = prompt.encode() if isinstance(prompt, str) else prompt
        stops = (stop,) if isinstance(stop, str) else tuple(stop)
        return self.run(
            Ask(data, max_tokens, chat, system, raw, special, hash, stops, sampling)
        )

    def run(self, ask: Ask) -> RunningThere:
        text, told = text_there(self.device, ask.prompt, **ask.form)
        run = remote.Run(
            self.device,
            text,
            ask.max_tokens,
            hash=ask.hash,
            stop=ask.stop,
            session=self._session,
            **told,
            **ask.sampling,
        )
        return RunningThere(self, run)

    def test(self) -> dict[str, Any]:
        digest = remote.test(self.device, **self._session)
        return {"passed": True, "logits_hash": digest, "kernels": self._kernels}

    @property
    def _kernels(self) -> str:
        return str(self._session.get("kernels", self.hello.kernels))

    def flash(
        self, image: str | Path, progress: Callable[[str, int, int], None] | None = None
    ) -> flash.Flashed:
        """Puts an image on the board: what it has not is sent, verified, tested, active."""
        plan = flash.plan(self.device, Path(image), self.facts)
        done = flash.apply(self.device, plan, progress)
        self.hello = self.device.hello()
        return done

    def memory(self) -> dict[str, Any]:
        """What a session takes of the board's RAM: the arena is static, so all of it counts."""
        hello = self.device.hello()
        return {
            "arena_bytes": hello.arena,
            "image_arena_bytes": _planned_arena(self.device),
            "stack_used_bytes": hello.stack_used,
            "peak_rss_bytes": hello.arena + hello.stack_used,
            "resident_bytes": hello.arena + hello.stack,
        }

    def bench(self, rounds: Rounds, progress: Progress | None = None) -> dict[str, Any]:
        check_rounds_of(self.facts, rounds)
        hello, depths, repeat = self.hello, rounds.depths or (0,), rounds.repeat
        repeat = (1 if hello.emulated else 3) if repeat is None else repeat
        prompt = 16 if rounds.prompt_tokens is None else rounds.prompt_tokens
        decode = 16 if rounds.decode_tokens is None else rounds.decode_tokens
        found = [
            remote.bench(
                self.device, prompt_tokens=prompt, decode_tokens=decode, depth=at, repeat=repeat
            ).fields(hello, self.facts)
            for at in depths
        ]
        return {
            **dict.fromkeys(FIELDS),
            **found[0],
            **self.memory(),
            "decode": [
                {"depth": at, "tokens_per_second": one["decode_tokens_per_second"]}
                for at, one in zip(depths, found)
            ],
            "kernels": hello.kernels,
            "repeat": repeat,
            "threads": 1,
            "prompt_tokens": prompt,
            "decode_tokens": decode,
            "depth": depths[0],
            "image_id": hello.image_id,
            "board_id": hello.board_id,
        }


class LinuxTarget(BoardTarget):
    """A board with Linux, where a model is opened as it is here."""

    def memory(self) -> dict[str, Any]:
        return {"peak_rss_bytes": self.device.hello().peak_rss, "resident_bytes": None}

    def bench(self, rounds: Rounds, progress: Progress | None = None) -> dict[str, Any]:
        """The same rounds as are made here, by the agent."""
        results = remote.measure(self.device, rounds, progress, **self._session)
        results["emulated"] = self.hello.emulated
        if self.hello.emulated:  # what an emulator's clock says is no speed
            rates = ("prefill_tokens_per_second", "decode_tokens_per_second", "ttft_seconds")
            results.update(dict.fromkeys(rates))
        results["board_id"] = self.hello.board_id
        predicted = predict_measured(self.facts, results.pop("model"))
        results["predicted_tokens_per_second"] = predicted
        return results


class RunningThere:
    """A generation on a board."""

    def __init__(self, target: BoardTarget, run: remote.Run) -> None:
        self._target, self._run = target, run
        self._pieces: list[str] = []
        self._memory: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        for piece in self._run:
            self._pieces.append(piece)
            yield piece
        self._memory = self._target.memory()

    def fields(self) -> dict[str, Any]:
        run, target = self._run, self._target
        found = {
            "text": "".join(self._pieces),
            "tokens": run.tokens,
            "finish_reason": run.finish_reason,
            "prompt_tokens": run.times.prompt_tokens,
            "generated_tokens": len(run.tokens),
            **run.times.fields(target.hello, target.facts),
            **self._memory,
            "kernels": target._kernels,
            "image_id": target.hello.image_id,
            "board_id": target.hello.board_id,
        }
        if run.logits_hash is not None:
            found["logits_hash"] = run.logits_hash
        return found


def session_of(board: Board, session: Mapping[str, Any]) -> dict[str, Any]:
    """The options of `Model.open` that were given, as a board's jobs take them. UsageError for
    one out of its range, and for any with a board that runs by its image's plan."""
    found = {k: v for k, v in session.items() if v is not None and v is not False}
    for name, value in found.items():
        if board.linux is None:
            raise UsageError(
                f"{_option(name)} has no effect on a {board.name}, which runs by its image's "
                "plan; leave it out"
            )
        if name in _MOST:
            found[name] = whole(_option(name), value, 1, _MOST[name])
        elif name == "memory":
            found[name] = parse_size(value)
    return found


def check_rounds_of(board: Board, rounds: Rounds) -> None:
    """UsageError for what a microcontroller cannot measure."""
    if board.linux is not None:
        return
    for name in ("least", "most", "cold", "within"):
        if getattr(rounds, name) not in (None, False):
            shown = "--rounds" if name in ("least", "most") else f"--{name}"
            raise UsageError(
                f"{shown} is for images and boards with Linux; give a {board.name} --repeat"
            )


def on_board(board: Board, device: LinkedDevice, hello: Hello, **session: Any) -> BoardTarget:
    """The target that a board is, which is reached already."""
    kind = BoardTarget if board.linux is None else LinuxTarget
    return kind(board, device, hello, **session)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}" if name in SESSION else name


def _planned_arena(device: LinkedDevice) -> int | None:
    """The arena that the active image's plan says, of the board's; None when it has none."""
    try:
        plan = device.section(PLAN)
    except QedgeError:  # older firmware
        return None
    return None if plan is None or len(plan) < 32 else int.from_bytes(plan[24:32], "little")
