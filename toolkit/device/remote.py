"""Runs, measures and tests the model that is active on a board.  Times are the device's own.

An emulator's clock counts instructions, so an emulated board never gives tokens a second."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median_low
from typing import Any

from qedge.runtime import arguments
from qedge.runtime.errors import ImageError, NoBoardError
from qedge.runtime.measure.rounds import DEFAULTS, check_counts, check_rounds
from qedge.runtime.sampling import MOST_TOKENS, Sampling, float_bits
from qedge.runtime.text import StopText
from qedge.toolkit.board import Board
from qedge.toolkit.device.flash import GOLDEN_STEPS, STEP_BYTES
from qedge.toolkit.device.target import Progress, Rounds
from qedge.toolkit.link import Hello, LinkedDevice

MEASURE_SECONDS = 7200.0  # in one round of a slow board
RESULTS_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Times:
    """Of one run or measurement, in ticks of the device's clock."""

    prompt_tokens: int = 0
    decoded_tokens: int = 0  # those that decode_ticks are for
    prefill_ticks: int = 0
    decode_ticks: int = 0
    first_ticks: int = 0

    def fields(self, hello: Hello, board: Board) -> dict[str, Any]:
        """What --json has of them: rates on silicon, instructions on an emulator."""
        hz = hello.tick_hz
        if not hello.emulated:
            return {
                "ttft_seconds": self.first_ticks / hz if self.first_ticks else None,
                "prefill_tokens_per_second": _rate(self.prompt_tokens, self.prefill_ticks, hz),
                "decode_tokens_per_second": _rate(self.decoded_tokens, self.decode_ticks, hz),
            }
        found: dict[str, Any] = {
            "ttft_seconds": None,
            "prefill_tokens_per_second": None,
            "decode_tokens_per_second": None,
            "emulated": True,
        }
        of_second = board.device.emulated_hz if board.device else 0
        for name, tokens, ticks in (
            ("emulated_instructions_per_token", self.decoded_tokens, self.decode_ticks),
            ("emulated_instructions_per_prompt_token", self.prompt_tokens, self.prefill_ticks),
        ):
            known = of_second and tokens
            found[name] = round(ticks * of_second / hz / tokens) if known else None
        return found


def _rate(tokens: int, ticks: int, hz: int) -> float | None:
    return tokens * hz / ticks if tokens and ticks else None


class Run:
    """Tokens of a prompt, generated on the device. Iterate over it for the text's pieces; then
    its fields tell the rest."""

    def __init__(
        self,
        device: LinkedDevice,
        prompt: str | bytes,
        max_tokens: int = 256,
        *,
        stop: str | Sequence[str] = (),
        special: bool = False,
        bos: bool = True,
        hash: bool = False,
        session: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> None:
        """Options and their ranges as of `Model.generate`, refused before the board hears of
        them; bos: begin as the model wants prompts to begin. session: of a board with Linux,
        options of `Model.open`."""
        self._values = {
            **(session or {}),
            "prompt": arguments.utf8("the prompt", prompt),
            "max": arguments.whole("max_tokens", max_tokens, 1, MOST_TOKENS),
            **Sampling(**sampling).to_link(),
            "special": bool(special),
            "bos": bool(bos),
            "hash": bool(hash),
        }
        self._stop = arguments.stops(stop)
        self._device = device
        self.tokens: list[int] = []
        self.finish_reason: str | None = None
        self.logits_hash: str | None = None
        self.times = Times()

    def __iter__(self) -> Iterator[str]:
        text = StopText(self._stop)
        limit = self._values["max"]
        # a space may become three tokens; the text of a long token comes in several steps
        most = 4 * limit + 3 * len(self._values["prompt"]) + 1024
        for step in self._device.job("run", most=most, **self._values):
            if "token" in step:
                if len(self.tokens) == limit:
                    raise NoBoardError(
                        f"{self._device.name}: it gives more tokens than it was asked for; it "
                        "is no board that qedge knows"
                    )
                self.tokens.append(step["token"])
                self.times = times(step, len(self.tokens) - 1)
                self.logits_hash = step["hash"].hex() if "hash" in step else None
            if piece := text.add(step.get("text", b"")):
                yield piece
            if text.stopped:
                self.finish_reason = "stop"
                return
            if step.get("done"):
                self.finish_reason = step.get("reason")
        if rest := text.finish():
            yield rest


def times(step: dict[str, Any], decoded: int) -> Times:
    """What the last step of a job says."""
    return Times(
        prompt_tokens=step.get("prompt", 0),
        decoded_tokens=decoded,
        prefill_ticks=step.get("prefill_ticks", 0),
        decode_ticks=step.get("decode_ticks", 0),
        first_ticks=step.get("first_ticks", 0),
    )


def bench(
    device: LinkedDevice, *, prompt_tokens: int, decode_tokens: int, depth: int, repeat: int = 1
) -> Times:
    """Prefill of `prompt_tokens`, then `decode_tokens` one by one behind `depth` tokens; the
    medians of `repeat`."""
    check_counts((depth,), prompt_tokens, decode_tokens, repeat)
    values = {"prompt": prompt_tokens, "decode": decode_tokens, "depth": max(1, depth)}
    most = prompt_tokens + decode_tokens + max(1, depth) + 64
    found = [
        times(device.finish("bench", most=most, **values), decode_tokens) for _ in range(repeat)
    ]
    return replace(
        found[0],
        prefill_ticks=median_low(one.prefill_ticks for one in found),
        first_ticks=median_low(one.first_ticks for one in found),
        decode_ticks=median_low(one.decode_ticks for one in found),
    )


def measure(
    device: LinkedDevice,
    rounds: Rounds,
    progress: Progress | None = None,
    **session: Any,
) -> dict[str, Any]:
    """Measures on a board with Linux as `qedge.runtime.measure` does; its results, and what the
    prediction needs (`model`). session: options of `Model.open`."""
    text = bytearray()
    given = {name: value for name, value in rounds._asdict().items() if value is not None}
    values = {**DEFAULTS, **given, "depths": list(rounds.depths or (0,))}
    check_counts(
        values["depths"], values["prompt_tokens"], values["decode_tokens"], rounds.repeat
    )
    check_rounds(values["least"], values["most"], values["within"])
    values = {**values, **session, "within": float_bits(values["within"])}
    for step in device.job("measure", idle=MEASURE_SECONDS, **values):
        if "json" in step:
            text += step["json"]
            if len(text) > RESULTS_BYTES:
                raise NoBoardError(f"{device.name}: its results do not end")
        elif progress:
            progress("measure", step["at"], step["of"])
    return checked_results(device.name, bytes(text))


def checked_results(name: str, text: bytes) -> dict[str, Any]:
    """A measurement's results as a board gives them. NoBoardError when they are none."""
    from qedge.runtime.measure.rounds import FIELDS

    try:
        found = json.loads(text)
        if not isinstance(found, dict):
            raise ValueError("no object")
        missing = [field for field in (*FIELDS, "model") if field not in found]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        for field, value in found.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{field} is {value}")
    except (ValueError, RecursionError) as error:
        raise NoBoardError(
            f"{name}: its results cannot be read ({error}); is its runtime of another version?"
        ) from error
    return found


def rollback(device: LinkedDevice) -> Hello:
    """Makes the image that was active before active again, after verifying and testing it; what
    the board says then. ImageError when there is none."""
    hello = device.hello()
    if hello.active is None or not hello.slots[1 - hello.active].sequence:
        raise ImageError(
            f"{device.name}: holds no verified image but the active one; there is "
            "nothing to go back to"
        )
    other = hello.slots[1 - hello.active]
    device.finish("activate", slot=1 - hello.active, id=bytes.fromhex(other.image_id))
    return device.hello()


def test(device: LinkedDevice, **session: Any) -> str:
    """Runs the golden section of the active image, when every byte of it was verified; the
    logits_hash. session: of a board with Linux, options of `Model.open`. VerifyError for an
    image that is damaged, BoardTestError."""
    hello = device.hello()
    if hello.active is not None:
        slot = hello.slots[hello.active]
        most = slot.bytes // STEP_BYTES + GOLDEN_STEPS
        named = bytes.fromhex(slot.image_id)
        device.finish("verify", most=most, slot=hello.active, id=named)
    last = device.finish("test", most=GOLDEN_STEPS, **session)
    if "hash" not in last:
        raise NoBoardError(f"{device.name}: its test gives no hash; is it of another version?")
    return str(last["hash"].hex())
