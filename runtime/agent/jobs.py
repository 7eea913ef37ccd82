"""What takes long on a board with Linux, in steps: verify, activate, test, run, bench. The same
jobs, values and answers as the firmware's (docs/link.md); times are in nanoseconds.

What is verified is what runs: a file is mapped once, and the same mapping is verified, tested
and made active.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress

from qedge.runtime._engine import EngineError, Image
from qedge.runtime.agent import fields
from qedge.runtime.agent.keys import KEY_PATH, NotTrusted, check, trusted_key
from qedge.runtime.agent.numbers import (
    LINK_ENGINE,
    LINK_MESSAGE,
    LINK_NO_IMAGE,
    LINK_NO_JOB,
    LINK_OLDER,
    LINK_TEST,
    LINK_UNKNOWN,
    LINK_UNSIGNED,
    LINK_WRONG_BOARD,
)
from qedge.runtime.agent.slots import SlotError, Slots
from qedge.runtime.errors import BudgetError, QedgeError, UsageError
from qedge.runtime.model import Model
from qedge.runtime.sampling import GREEDY, MOST_TOKENS, Sampling, bits_float, float_bits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from qedge.runtime.agent.measurement import Measurement

TICK_HZ = 1_000_000_000
LEAVES_A_STEP = 64
STEP_SECONDS = 1.0  # at most, while nothing is to be told
_IMAGE, _HASH, _BUDGET, _CONTEXT = (LINK_ENGINE + number for number in (1, 3, 4, 7))
_KINDS = ("verify", "activate", "test", "run", "bench", "measure")
_PIECE_BYTES = 32768


class Jobs:
    """The one job that is at work, and the model it works with."""

    def __init__(
        self, slots: Slots, board: str, key_path: str = KEY_PATH, key_owner: int = 0
    ) -> None:
        """key_path: of the key whose signatures are wanted, if there is one; only key_owner may
        have written it."""
        self._slots = slots
        self._board = board
        self._key_path, self._key_owner = key_path, key_owner
        self._model: Model | None = None
        self._opened: tuple[object, ...] = ()  # what the model was opened from
        self._steps: Iterator[dict[str, Any]] | None = None
        self._measurement: Measurement | None = None
        self._ticket = 0  # of whoever began the job

    def close(self) -> None:
        self.stop()
        if self._model is not None:
            self._model.close()
        self._model, self._opened = None, ()

    def stop(self) -> None:
        """Ends the job that is at work."""
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()  # type: ignore[attr-defined]
        if self._measurement is not None:
            self._measurement.stop()
        self._measurement = None

    def begin(self, values: dict[str, Any]) -> None:
        """Begins a job. SlotError with the link's number."""
        self.stop()
        kind = values.get("job")
        if kind not in _KINDS:
            raise SlotError(LINK_UNKNOWN)
        ticket = fields.whole(values, "ticket", 0, fields.WORD_MOST, 0)
        steps = getattr(self, f"_{kind}")(values)
        try:
            next(steps)  # as far as its first step: what is wrong is said now
        except EngineError as error:
            raise SlotError(LINK_ENGINE - error.code) from None
        self._steps, self._ticket = steps, ticket

    def step(self, ticket: int) -> dict[str, Any]:
        """What the next step finds. ticket: that the job was begun with; another client's job
        is none."""
        if self._steps is None or ticket != self._ticket:
            raise SlotError(LINK_NO_JOB)
        try:
            found = next(self._steps)
        except EngineError as error:
            self._steps = None
            raise SlotError(LINK_ENGINE - error.code) from None
        except BaseException:
            self._steps = None
            raise
        if found.get("done"):
            self._steps = None
        return found

    # ---- verify, activate, test ----

    def key(self) -> bytes | None:
        """The key whose signatures are wanted. SlotError when it cannot be trusted."""
        try:
            return trusted_key(self._key_path, self._key_owner)
        except NotTrusted as error:
            raise SlotError(LINK_UNSIGNED, str(error)) from None

    def counter_of(self, image: Image) -> int:
        """Of an image's signature, where one is wanted. SlotError when it is not right."""
        key = self.key()
        try:
            return check(image, key, self._slots.floor() if key is not None else 0)
        except NotTrusted as error:
            raise SlotError(LINK_OLDER if error.older else LINK_UNSIGNED, str(error)) from None

    def _chosen(self, slot: int, image_id: str | None) -> tuple[Image, str]:
        """A slot's file with this image, mapped: what was sent, or what was there before. With
        no id, what was sent, if anything was. SlotError when neither is it."""
        wrong = SlotError(LINK_NO_IMAGE)
        for path in (self._slots.part_path(slot), self._slots.path(slot)):
            self._slots.settle(path)
            try:
                image = Image(os.fsencode(path))
            except EngineError as error:
                wrong = SlotError(LINK_ENGINE - error.code)
                continue
            except OSError:
                continue
            if image_id is None or image.id.hex() == image_id:
                return image, path
        raise wrong

    def _leaves(self, image: Image) -> Iterator[dict[str, Any]]:
        """Every byte of it, from the disk."""
        if image.plan["board"] != self._board:
            raise SlotError(LINK_WRONG_BOARD)
        first, of = 0, max(1, image.bytes // 65536)
        count = LEAVES_A_STEP
        while count == LEAVES_A_STEP:
            count = image.verify(first, LEAVES_A_STEP)
            first += count
            yield {"done": False, "at": first, "of": max(of, first)}

    @contextmanager
    def _proving(self, slot: int) -> Iterator[None]:
        """A slot that is not active, and turns out not to be what its record says, loses its
        record."""
        try:
            yield
        except (EngineError, SlotError) as error:
            code = LINK_ENGINE - error.code if isinstance(error, EngineError) else error.code
            if code in (LINK_TEST, _IMAGE, _HASH) and slot != self._slots.active():
                with suppress(SlotError, OSError):  # another writes: it has gone already
                    self._slots.forget(slot)
            raise

    def _verify(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        slot = fields.slot(values)
        with self._proving(slot):
            image, _ = self._chosen(slot, fields.image_id(values))
            yield {}
            found: dict[str, Any] = {}
            for found in self._leaves(image):
                yield found
            self.counter_of(image)
            yield {**found, "done": True}

    def _activate(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        slot, image_id = fields.slot(values), fields.image_id(values)
        if image_id is None:
            raise SlotError(LINK_MESSAGE, "which image is meant is not said")
        self._slots.lock()
        self.close()
        with self._proving(slot):
            image, path = self._chosen(slot, image_id)
            yield {}
            yield from self._leaves(image)
            counter = self.counter_of(image)
            with _opened(image, path) as model:
                for found in self._golden(model):
                    if found["done"]:
                        _cut(path, _end(image))
                        self._slots.activate(slot, image_id, image.bytes, counter, path)
                    yield found

    def _test(self, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
        model = self._active(values)
        yield {}
        yield from self._golden(model)

    def _golden(self, model: Model) -> Iterator[dict[str, Any]]:
        golden = model.golden()
        if golden is None:
            raise SlotError(LINK_TEST)
        prompt, expected, digest = golden
        engine = model.engine
        engine.set_sampler(*GREEDY.values)
        for found in self._tokens(model, prompt, len(expected), hashing=True):
            drawn = found.pop("at") if "token" in found else 0
            wrong = drawn and found.pop("token") != expected[drawn - 1]
            done = drawn == len(expected)
            if wrong or (done and found["hash"].hex() != digest):
                raise SlotError(LINK_TEST)
            if not done:
                found.pop("hash", None)
            yield {**found, "at": drawn, "of": len(expected), "done": done}

    # ---- run, bench ----

    def active_image(self) -> tuple[int, Image]:
        """The active slot and its image, with a signature where one is wanted. SlotError."""
        slot = self._slots.active()
        if slot is None:
            raise SlotError(LINK_NO_IMAGE)
        try:
            image = Image(os.fsencode(self._slots.path(slot)))
        except EngineError as error:
            raise SlotError(LINK_ENGINE - error.code) from None
        except OSError:
            raise SlotError(LINK_NO_IMAGE) from None
        if image.id.hex() != self._slots.record(slot).get("id"):
            raise SlotError(_IMAGE, "it is not the image that was activated")
        if image.plan["board"] != self._board:
            raise SlotError(LINK_WRONG_BOARD)
        self.counter_of(image)
        return slot, image

    def _active(self, values: dict[str, Any]) -> Model:
        """The active image's model, opened as a message wants it."""
        session = fields.session(values)
        slot = self._slots.active()
        record = self._slots.record(slot) if slot is not None else {}
        opened = (slot, record.get("sequence"), record.get("id"), *session.items())
        if self._model is None or self._opened != opened:
            self.close()
            slot, image = self.active_image()
            self._model = _opened(image, self._slots.path(slot), **session)
            self._opened = opened
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
            found: dict[str, Any] = {
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
        model = self._active(values)
        text = fields.data(values, "prompt")
        most = fields.whole(values, "max", 1, MOST_TOKENS, 256)
        special, bos = fields.flag(values, "special", False), fields.flag(values, "bos", True)
        hashing = fields.flag(values, "hash", False)
        try:
            sampling = Sampling.from_link(values)
        except UsageError as error:
            raise SlotError(LINK_MESSAGE, str(error)) from None
        prompt = model.engine.encode(text, special, bos)
        if not prompt:
            raise SlotError(LINK_MESSAGE, "the prompt is empty")
        if len(prompt) > model.context:
            raise SlotError(_CONTEXT)
        model.engine.set_sampler(*sampling.values)
        yield {}
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
        from qedge.runtime.measure.rounds import spread

        model = self._active(values)
        context = model.context
        count = fields.whole(values, "prompt", 1, context, 16)
        depth = fields.whole(values, "depth", 1, context, 1)
        limit = fields.whole(values, "decode", 1, context - depth, 16)
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
                engine.set_sampler(*GREEDY.values)
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

        from qedge.runtime.agent.measurement import Measurement

        slot, _ = self.active_image()
        self.close()
        path = self._slots.path(slot)
        try:
            within = bits_float("within", values.get("within", float_bits(0.02)))
        except UsageError as error:
            raise SlotError(LINK_MESSAGE, str(error)) from None
        self._measurement = work = Measurement(path, values, within, fields.session(values))
        yield {}
        while not work.ended.wait(STEP_SECONDS):
            yield {"done": False, "at": work.at, "of": work.of}
        self._measurement = None
        if work.error is not None:
            raise work.error
        image = Image(path.encode())
        work.results["model"] = {
            "tensors": [[t[0], t[4], t[6]] for t in image.tensors()],
            "config": image.config,
            "kv": image.plan["kv"],
            "depth": work.results.get("depth", 0),
        }
        text = json.dumps(work.results).encode()
        for start in range(0, len(text), _PIECE_BYTES):
            end = min(start + _PIECE_BYTES, len(text))
            yield {"done": end == len(text), "json": text[start:end]}


def _opened(image: Image, path: str, **session: Any) -> Model:
    try:
        return Model.of(image, path, **session)
    except BudgetError as error:
        raise SlotError(_BUDGET, str(error)) from None
    except UsageError as error:
        raise SlotError(LINK_MESSAGE, str(error)) from None
    except QedgeError as error:
        raise SlotError(_IMAGE, str(error)) from None


def _end(image: Image) -> int:
    """Where a file with this image and its signature ends."""
    signed = image.read(image.bytes, 8) == b"QEDGESIG"
    return image.bytes + (80 if signed else 0)


def _cut(path: str, size: int) -> None:
    """Takes from a file what an older image left behind this one."""
    if os.path.getsize(path) > size:
        os.truncate(path, size)
