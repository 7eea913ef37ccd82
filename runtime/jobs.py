"""What takes long on a board with Linux, in steps: verify, activate, test, run, bench. The same
jobs, values and answers as the firmware's (docs/link.md); times are in nanoseconds.
"""

from __future__ import annotations

import struct
import time

from qedge.runtime._engine import EngineError, Image
from qedge.runtime.errors import BudgetError, QedgeError
from qedge.runtime.model import Model
from qedge.runtime.slots import RANGE, SlotError, Slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

TICK_HZ = 1_000_000_000
LEAVES_A_STEP = 64
STEP_SECONDS = 1.0  # at most, while nothing is to be told
MESSAGE, NO_IMAGE, NO_JOB, WRONG_BOARD, TEST, ENGINE = 4, 5, 6, 7, 8, 100
_BUDGET, _IMAGE, _NUMERIC = ENGINE + 4, ENGINE + 1, ENGINE + 8
_KINDS = ("verify", "activate", "test", "run", "bench", "measure")
_PIECE_BYTES = 32768


class Jobs:
    """The one job that is at work, and the model it works with."""

    def __init__(self, slots: Slots, board: str) -> None:
        self._slots = slots
        self._board = board
        self._model: Model | None = None
        self._model_id: str | None = None
        self._steps: Iterator[dict[str, Any]] | None = None
        self._measurement: Measurement | None = None

    def close(self) -> None:
        self._stop()
        if self._model is not None:
            self._model.close()
        self._model = self._model_id = None

    def _stop(self) -> None:
        self._steps = None
        if self._measurement is not None:
            self._measurement.stop()
        self._measurement = None

    def begin(self, values: dict[str, Any]) -> None:
        """Begins a job. SlotError with the link's number."""
        self._stop()
        kind = values.get("job")
        if kind not in _KINDS:
            raise SlotError(MESSAGE)
        steps = getattr(self, f"_{kind}")(values)
        next(steps)  # as far as its first step: what is wrong with the values is said now
        self._steps = steps

    def step(self) -> dict[str, Any]:
        """What the next step finds."""
        if self._steps is None:
            raise SlotError(NO_JOB)
        try:
            found = next(self._steps)
        except EngineError as error:
            self._steps = None
            raise SlotError(ENGINE - error.code) from None
        except BaseException:
            self._steps = None
            raise
        if found.get("done"):
            self._steps = None
        return found

    # ---- verify, activate, test ----

    def _verify(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield {}
        yield from self._leaves(_slot(values), last=True)

    def _leaves(self, slot: int, last: bool) -> Iterator[dict[str, Any]]:
        self._slots.settle(slot)
        image = self._image(slot)
        if image.plan["board"] != self._board:
            raise SlotError(WRONG_BOARD)
        first, of = 0, max(1, image.bytes // 65536)
        while True:
            count = image.verify(first, LEAVES_A_STEP)
            first += count
            ended = count < LEAVES_A_STEP
            yield {"done": ended and last, "at": first, "of": max(of, first)}
            if ended:
                return

    def _image(self, slot: int) -> Image:
        try:
            return Image(self._slots.path(slot).encode())
        except FileNotFoundError:
            raise SlotError(NO_IMAGE) from None
        except EngineError as error:
            raise SlotError(ENGINE - error.code) from None
        except OSError:
            raise SlotError(NO_IMAGE) from None

    def _activate(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        slot, counter = _slot(values), values.get("counter", 0)
        if not isinstance(counter, int) or not 0 <= counter < 1 << 32:
            raise SlotError(MESSAGE)
        self._slots.lock()
        self.close()
        yield {}
        yield from self._leaves(slot, last=False)
        with _opened(self._slots.path(slot)) as model:
            if values.get("id", model.image_id) != model.image_id:
                raise SlotError(NO_IMAGE)
            for found in self._golden(model):
                if found["done"]:
                    image_id, size = model.image_id, model.image.bytes
                    self._slots.activate(slot, image_id, size, counter)
                yield found

    def _test(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        model = self._active()
        yield {}
        yield from self._golden(model)

    def _golden(self, model: Model) -> Iterator[dict[str, Any]]:
        golden = model.golden()
        if golden is None:
            raise SlotError(TEST)
        prompt, expected, digest = golden
        engine = model.engine
        engine.set_sampler(0.0, 0, 1.0, 0.0, 1.0, 0)
        for found in self._tokens(model, prompt, len(expected), hashing=True):
            drawn = found.pop("at") if "token" in found else 0
            wrong = drawn and found.pop("token") != expected[drawn - 1]
            done = drawn == len(expected)
            if wrong or (done and found["hash"].hex() != digest):
                raise SlotError(TEST)
            if not done:
                found.pop("hash", None)
            yield {**found, "at": drawn, "of": len(expected), "done": done}

    # ---- run, bench ----

    def _active(self) -> Model:
        slot = self._slots.active()
        if slot is None:
            raise SlotError(NO_IMAGE)
        image_id = self._slots.record(slot).get("id")
        if self._model is None or self._model_id != image_id:
            self.close()
            self._model, self._model_id = _opened(self._slots.path(slot)), image_id
        return self._model

    def _tokens(
        self, model: Model, prompt: list[int], limit: int, hashing: bool
    ) -> Iterator[dict[str, Any]]:
        """Evaluates a prompt in batches, then draws tokens; a step each."""
        engine, clock = model.engine, time.perf_counter_ns
        batch = model.plan["batch"]
        engine.rewind(0)
        engine.hash_reset()
        prefill = decode = first = drawn = at = 0
        while at < len(prompt):
            began = clock()
            model.evaluate(prompt[at : at + batch])
            at = min(at + batch, len(prompt))
            prefill += clock() - began
            yield {"done": False, "at": at, "of": len(prompt)}
        token = -1
        while drawn < limit:
            began = clock()
            if drawn:
                engine.eval((token,))
            if hashing:
                engine.hash_logits()
            token = engine.sample()
            took = clock() - began
            drawn += 1
            first, decode = (prefill + took, 0) if drawn == 1 else (first, decode + took)
            found = {
                "done": False,
                "token": token,
                "at": drawn,
                "of": limit,
                "prompt": len(prompt),
                "prefill_ticks": prefill,
                "first_ticks": first,
                "decode_ticks": decode,
            }
            if hashing:
                found["hash"] = engine.hash_digest()
            yield found

    def _run(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        model = self._active()
        text, most = values.get("prompt"), values.get("max", 256)
        if not isinstance(text, bytes) or not isinstance(most, int) or most < 1:
            raise SlotError(MESSAGE)
        prompt = model.prompt_tokens(text, special=bool(values.get("special")))
        if not prompt:
            raise SlotError(MESSAGE)
        if len(prompt) > model.context:
            raise SlotError(ENGINE + 7)
        seed = int.from_bytes(values.get("seed", b""), "little")
        _set_sampler(model, values, seed)
        yield {}
        hashing = bool(values.get("hash"))
        for found in self._tokens(model, prompt, most, hashing):
            if "token" in found:
                if model.image.is_stop(found["token"]):
                    found["reason"] = "stop"
                else:
                    found["text"] = model.image.decode(found["token"])
                    if found["at"] == most:
                        found["reason"] = "length"
                    elif model.engine.position >= model.context:
                        found["reason"] = "context"
                found["done"] = "reason" in found
            yield found

    def _bench(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        from qedge.runtime.measure import spread

        model = self._active()
        count, depth = values.get("prompt", 16), values.get("depth", 1)
        limit, context = values.get("decode", 16), model.context
        if not (0 < count <= context and depth > 0 and 0 < limit <= context - depth):
            raise SlotError(MESSAGE)
        yield {}
        engine, clock = model.engine, time.perf_counter_ns
        times = {"prompt": count, "prefill_ticks": 0, "first_ticks": 0, "decode_ticks": 0}
        engine.rewind(0)
        batch, vocab = model.plan["batch"], model.config["vocab_size"]
        prompt, behind = spread(vocab, count, 1), spread(vocab, depth, 2)
        for tokens, key in ((prompt, "prefill_ticks"), (behind, "")):
            for at in range(0, len(tokens), batch):
                began = clock()
                model.evaluate(tokens[at : at + batch])
                if key:
                    times[key] += clock() - began
                yield {"done": False, "at": at, "of": len(tokens)}
            if key:
                engine.set_sampler(0.0, 0, 1.0, 0.0, 1.0, 0)
                began = clock()
                engine.sample()
                times["first_ticks"] = times[key] + clock() - began
                engine.rewind(0)
        for drawn, token in enumerate(spread(vocab, limit, 3), 1):
            began = clock()
            engine.eval((token,))
            times["decode_ticks"] += clock() - began
            done = drawn == limit
            yield {"done": done, "at": drawn, "of": limit, **(times if done else {})}

    def _measure(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        import json

        slot = self._slots.active()
        if slot is None:
            raise SlotError(NO_IMAGE)
        self.close()
        path = self._slots.path(slot)
        self._measurement = work = Measurement(path, values)
        yield {}
        while not work.ended.wait(STEP_SECONDS):
            yield {"done": False, "at": work.at, "of": work.of}
        self._measurement = None
        if work.error is not None:
            raise work.error
        image = Image(path.encode())
        work.results["model"] = {
            "tensors": [[t[0], t[5], t[7]] for t in image.tensors()],
            "config": image.config,
            "kv": image.plan["kv"],
            "depth": work.results.get("depth", 0),
        }
        text = json.dumps(work.results).encode()
        for start in range(0, len(text), _PIECE_BYTES):
            end = min(start + _PIECE_BYTES, len(text))
            yield {"done": end == len(text), "json": text[start:end]}


class _Stopped(Exception):
    pass


class Measurement:
    """A measurement (measure.py) in a thread of its own, so that the link stays alive."""

    def __init__(self, path: str, values: dict[str, Any]) -> None:
        import threading

        from qedge.runtime.measure import measure

        self.ended = threading.Event()
        self.error: Exception | None = None
        self.results: dict[str, Any] = {}
        self.at, self.of = 0, 1
        self._stopped = False
        options = {
            name: values[name]
            for name in ("prompt_tokens", "decode_tokens", "depths", "least", "most", "cold")
            if name in values
        }
        if values.get("repeat") is not None:
            options["repeat"] = values["repeat"]

        def work() -> None:
            try:
                self.results = measure(
                    path,
                    lambda: Model.open(path),
                    within=_float(values.get("within"), 0.02),
                    progress=self._progress,
                    **options,
                )
            except _Stopped:
                pass
            except BudgetError as error:
                self.error = SlotError(_BUDGET, str(error))
            except QedgeError as error:
                self.error = SlotError(MESSAGE, str(error))
            except Exception as error:
                self.error = error
            finally:
                self.ended.set()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def _progress(self, done: int, of: int) -> None:
        self.at, self.of = done, of
        if self._stopped:
            raise _Stopped

    def stop(self) -> None:
        """Ends it at its next round, and waits for that: it holds the model's memory."""
        self._stopped = True
        self._thread.join()


def _float(bits: Any, default: float) -> float:
    """A float as the link has it: the bits of a float32."""
    if not isinstance(bits, int):
        return default
    if not 0 <= bits < 1 << 32:
        raise SlotError(MESSAGE)
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _opened(path: str) -> Model:
    try:
        return Model.open(path)
    except BudgetError as error:
        raise SlotError(_BUDGET, str(error)) from None
    except QedgeError as error:
        raise SlotError(_IMAGE, str(error)) from None


def _slot(values: dict[str, Any]) -> int:
    slot = values.get("slot")
    if slot not in (0, 1):
        raise SlotError(RANGE)
    return int(slot)


def _set_sampler(model: Model, values: dict[str, Any], seed: int) -> None:
    model.engine.set_sampler(
        _float(values.get("temperature"), 0.0),
        values.get("top_k", 0),
        _float(values.get("top_p"), 1.0),
        _float(values.get("min_p"), 0.0),
        _float(values.get("repeat_penalty"), 1.0),
        seed,
    )
