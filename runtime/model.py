"""Opens an image, checks its budget, and generates text. The policy around the engine; the
arithmetic is in engine/."""

from __future__ import annotations

import os
import time
from collections import namedtuple

from qedge.runtime._engine import EngineError, Image, Session
from qedge.runtime.chat import chat
from qedge.runtime.errors import BoardTestError, BudgetError, ImageError, QedgeError, UsageError
from qedge.runtime.image import KV_NAMES, open_image
from qedge.runtime.session import RESIDENT_BYTES, open_session
from qedge.runtime.text import StopText, text_failure

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing these takes milliseconds of a start that is counted in them
    from collections.abc import Iterator, Sequence
    from typing import Any

_TEMPLATE, _GOLDEN, _PROVENANCE = 4, 8, 9
_ERR_CONTEXT, _ERR_SPACE, _ERR_NUMERIC, _ERR_USAGE = -5, -7, -8, -9


class Stats(
    namedtuple(
        "Stats",
        "prompt_tokens generated_tokens ttft_seconds prefill_tokens_per_second "
        "decode_tokens_per_second",
    )
):
    """What one generation took. Rates are tokens a second; None where nothing was measured."""

    __slots__ = ()  # no dataclass: importing that module costs more than opening an image


class Model:
    """One session on an image. Made by `Model.open`; `model.session()` gives another one."""

    def __init__(
        self, image: Image, path: str, session: Session, options: dict[str, Any]
    ) -> None:
        self._image = image
        self._path = path
        self._session: Session | None = session
        self._options = options
        self._generation: Iterator[str] | None = None
        self.finish_reason: str | None = None
        self.tokens: list[int] = []
        self.stats: Stats | None = None

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        context: int | None = None,
        memory: str | int | None = None,
        threads: int | None = None,
        batch: int | None = None,
        kernels: str | None = None,
        allow_paging: bool = False,
        pin: bool = False,
    ) -> Model:
        """Opens an image and takes its arena: everything that will ever be allocated.

        context, batch: as in the image's plan unless given.
        threads: unless given, the fast cores, up to the plan's threads.
        memory: the arena's limit in bytes, or as "300M"; BudgetError when more is needed.
        kernels: forces a kernel set by name; all give the same bits.
        allow_paging: run even if image and arena do not fit into RAM (about 100 times slower).
        pin: keep every worker on a core of its own (not the calling thread).
        """
        options = {
            "context": context,
            "memory": memory,
            "threads": threads,
            "batch": batch,
            "kernels": kernels,
            "allow_paging": allow_paging,
            "pin": pin,
        }
        image = open_image(path)
        return cls(image, os.fspath(path), open_session(image, str(path), **options), options)

    @classmethod
    def of(cls, image: Image, path: str) -> Model:
        """A session on an image that is mapped already, with the image's own plan."""
        options = dict.fromkeys(("context", "memory", "threads", "batch", "kernels"))
        merged = {**options, "allow_paging": False, "pin": False}
        return cls(image, path, open_session(image, path, **merged), merged)

    def session(self, **options: Any) -> Model:
        """Another, independent session on the same mapped image; options as in `open`."""
        merged = {**self._options, **options}
        session = open_session(self._image, self._path, **merged)
        return Model(self._image, self._path, session, merged)

    def close(self) -> None:
        """Gives arena and workers back. The model cannot be used afterwards."""
        self._end_generation()
        self._session = None

    def _end_generation(self) -> None:
        try:
            if self._generation is not None:
                self._generation.close()  # type: ignore[attr-defined]
        except ValueError:  # it is running now, in another thread
            raise UsageError(
                f"{self._path}: another thread generates with this model; give each thread its "
                "own model.session()"
            ) from None
        self._generation = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def engine(self) -> Session:
        """The engine's session, for those who count tokens themselves."""
        if self._session is None:
            raise UsageError(f"{self._path}: the model is closed; open it again")
        return self._session

    @property
    def path(self) -> str:
        return self._path

    @property
    def image(self) -> Image:
        return self._image

    @property
    def config(self) -> dict[str, Any]:
        return self._image.config

    @property
    def plan(self) -> dict[str, Any]:
        plan = self._image.plan
        return {**plan, "kv": KV_NAMES[plan["kv"]]}

    @property
    def image_id(self) -> str:
        return self._image.id.hex()

    @property
    def context(self) -> int:
        return self._options["context"] or self._image.plan["context"]

    @property
    def arena_bytes(self) -> int:
        return self.engine.arena_bytes

    @property
    def threads(self) -> int:
        """Threads that do the work."""
        return self.engine.running

    @property
    def resident_bytes(self) -> int:
        """What this session may hold in RAM: image, arena and the runtime itself."""
        return self._image.bytes + self.arena_bytes + RESIDENT_BYTES

    @property
    def kernels(self) -> str:
        return self.engine.kernels

    @property
    def chat_template(self) -> str | None:
        """The model's own Jinja template; rendering it is the toolkit's business."""
        section = self._image.section(_TEMPLATE)
        return None if section is None else section.decode("utf-8", "replace")

    @property
    def provenance(self) -> dict[str, Any]:
        import json

        try:
            found = json.loads(self._image.section(_PROVENANCE) or b"{}")
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def tokenize(
        self, text: str | bytes, *, special: bool = False, bos: bool = False
    ) -> list[int]:
        """Ids of a text. special: control tokens written in it count; bos: begin as the model
        wants prompts to begin. ImageError when bytes are not UTF-8."""
        data = _utf8(text)
        try:
            return self._image.encode(data, special, bos)
        except EngineError as error:
            raise text_failure("the text", len(data), error) from None

    def detokenize(self, tokens: Sequence[int], *, special: bool = False) -> bytes:
        """The bytes that tokens stand for."""
        try:
            return b"".join(self._image.decode(token, special) for token in tokens)
        except (OverflowError, TypeError):
            raise self._wrong_ids() from None
        except EngineError as error:
            if error.code == _ERR_USAGE:
                raise self._wrong_ids() from None
            raise ImageError(f"{self._path}: {error}") from None

    def _wrong_ids(self) -> UsageError:
        most = self.config["vocab_size"] - 1
        return UsageError(f"token ids are whole numbers from 0 to {most:,}; one is not")

    def logits(self) -> Any:
        """The last token's logits: numpy float32 (vocab_size)."""
        import numpy

        return numpy.frombuffer(self.engine.logits(), numpy.float32)

    def logits_hash(self) -> str:
        """SHA-256 of the logits that the last generation with `hash=True` drew from."""
        return self.engine.hash_digest().hex()

    def reset(self) -> None:
        """Forgets the session's tokens."""
        self.engine.rewind(0)

    def prompt_tokens(self, prompt: str | bytes, *, special: bool = False) -> list[int]:
        """Ids of a prompt, with BOS where the model wants it; the arena is the scratch."""
        text = _utf8(prompt)
        try:
            return self.engine.encode(text, special, True)
        except EngineError as error:
            if error.code == _ERR_SPACE:
                raise BudgetError(
                    f"the prompt has {len(text):,} bytes and cannot fit a context of "
                    f"{self.context:,} "
                    "tokens; shorten it or open with a longer context"
                ) from None
            raise text_failure("the prompt", len(text), error) from None

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Appends tokens in batches; Ctrl-C gets through between them."""
        engine, batch = self.engine, self._options["batch"] or self._image.plan["batch"]
        room = self.context - engine.position
        if len(tokens) > room:
            raise BudgetError(
                f"the prompt has {len(tokens):,} tokens, the context has room for {room:,} of "
                f"{self.context:,}; shorten it or open with a longer context"
            )
        try:
            for start in range(0, len(tokens), batch):
                engine.eval(tokens[start : start + batch])
        except (OverflowError, TypeError):
            raise self._wrong_ids() from None
        except EngineError as error:
            if error.code == _ERR_USAGE:
                raise self._wrong_ids() from None
            raise _engine_failure(self._path, error) from None

    def generate(
        self,
        prompt: str | bytes | Sequence[int],
        max_tokens: int = 256,
        *,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repeat_penalty: float = 1.0,
        seed: int = 0,
        stop: str | Sequence[str] = (),
        special: bool = False,
        hash: bool = False,
        keep: bool = False,
    ) -> Iterator[str]:
        """Yields text pieces; none splits a character. Greedy at temperature 0.

        stop: strings that end the text and are not part of it.
        special: control tokens written in the prompt count (rendered chat templates need it).
        hash: `logits_hash()` afterwards.
        keep: go on behind the session's tokens instead of starting anew.

        After it, `finish_reason` is "stop" (end of sequence or a stop string), "length"
        (max_tokens) or "context" (full); `tokens` and `stats` say the rest.
        """
        stops = [stop] if isinstance(stop, str) else list(stop)
        if max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}; it must be at least 1")
        if "" in stops:
            raise UsageError("an empty stop string would stop everything; leave it out")
        for name, value, low, high in (
            ("temperature", temperature, 0.0, 1e6),
            ("top_k", top_k, 0, 1 << 31),
            ("top_p", top_p, 0.0, 1.0),
            ("min_p", min_p, 0.0, 1.0),
            ("repeat_penalty", repeat_penalty, 1e-6, 1e6),
            ("seed", seed, 0, (1 << 64) - 1),
        ):
            if not low <= value <= high:
                raise UsageError(f"{name} is {value}; it must lie between {low:g} and {high:g}")
        if isinstance(prompt, (str, bytes, bytearray)):
            prompt = self.prompt_tokens(prompt, special=special)
        prompt = list(prompt)
        if any(isinstance(item, dict) for item in prompt):
            raise UsageError("generate takes a text or token ids; give messages to model.chat")
        if not prompt:
            raise UsageError("the prompt is empty; give at least one token")
        self._end_generation()
        if not keep:
            self.reset()
        elif self.tokens and self.engine.position:  # the last one drawn was never evaluated
            prompt = [self.tokens[-1], *prompt]
        self.engine.set_sampler(temperature, top_k, top_p, min_p, repeat_penalty, seed)
        self.engine.hash_reset()
        self.finish_reason, self.tokens, self.stats = None, [], None
        self._generation = self._pieces(prompt, max_tokens, stops, hash)
        return self._generation

    def _pieces(
        self, prompt: Sequence[int], max_tokens: int, stops: list[str], hash: bool
    ) -> Iterator[str]:
        engine, image = self.engine, self._image
        text = StopText(stops)
        began = time.perf_counter()
        first = prefilled = None
        try:
            self.evaluate(prompt)
            prefilled = time.perf_counter()
            while True:
                if hash:
                    engine.hash_logits()
                token = engine.sample()
                self.tokens.append(token)
                first = first or time.perf_counter()
                if image.is_stop(token):
                    self.finish_reason = "stop"
                elif piece := text.add(image.decode(token)):
                    yield piece
                if text.stopped:
                    self.finish_reason = "stop"
                if not self.finish_reason and len(self.tokens) >= max_tokens:
                    self.finish_reason = "length"
                if not self.finish_reason and engine.position >= self.context:
                    self.finish_reason = "context"
                if self.finish_reason:
                    break
                engine.eval((token,))
            if rest := text.finish():
                yield rest
        except EngineError as error:
            raise _engine_failure(self._path, error) from None
        finally:
            ended = time.perf_counter()
            decoded = len(self.tokens) - 1
            self.stats = Stats(
                prompt_tokens=len(prompt),
                generated_tokens=len(self.tokens),
                ttft_seconds=first - began if first else None,
                prefill_tokens_per_second=len(prompt) / (prefilled - began)
                if prefilled
                else None,
                decode_tokens_per_second=decoded / (ended - first)
                if first and decoded > 0
                else None,
            )

    def golden(self) -> tuple[list[int], list[int], str] | None:
        """The image's own proof: prompt, expected tokens, logits_hash; None when it has
        none."""
        section = self._image.section(_GOLDEN)
        if section is None or len(section) < 48:
            return None
        words = memoryview(section[: len(section) // 4 * 4]).cast("I")
        prompt, expected = words[1], words[2]
        if not prompt or not expected or 12 + prompt + expected > len(words):
            return None
        if max(words[12 : 12 + prompt + expected]) >= self.config["vocab_size"]:
            return None
        return (
            list(words[12 : 12 + prompt]),
            list(words[12 + prompt : 12 + prompt + expected]),
            section[16:48].hex(),
        )

    def test(self) -> str:
        """Runs the golden section; returns the logits_hash. BoardTestError when it differs."""
        golden = self.golden()
        if golden is None:
            raise ImageError(
                f"{self._path}: no golden section that can be run; build the image again"
            )
        prompt, expected, digest = golden
        tokens, found = self.greedy(prompt, len(expected))
        if tokens != expected or found != digest:
            raise BoardTestError(
                f"{self._path}: expected logits {digest[:16]}…, got {found[:16]}…; this engine "
                "does not compute what the image promises: report it with `qedge inspect`"
            )
        return found

    def greedy(self, prompt: Sequence[int], count: int) -> tuple[list[int], str]:
        """Exactly count greedy tokens after prompt, stop tokens too, and their logits_hash."""
        engine = self.engine
        engine.rewind(0)
        engine.hash_reset()
        engine.set_sampler(0.0, 0, 1.0, 0.0, 1.0, 0)
        self.evaluate(prompt)
        tokens: list[int] = []
        try:
            while True:
                engine.hash_logits()
                tokens.append(engine.sample())
                if len(tokens) == count:
                    return tokens, engine.hash_digest().hex()
                engine.eval((tokens[-1],))
        except EngineError as error:
            raise _engine_failure(self._path, error) from None

    chat = chat


def _utf8(text: str | bytes) -> bytes:
    try:
        return text.encode("utf-8") if isinstance(text, str) else bytes(text)
    except UnicodeEncodeError as error:
        raise ImageError(f"the text is not UTF-8 ({error.reason}); convert it first") from None


def _engine_failure(path: str, error: EngineError) -> QedgeError:
    if error.code == _ERR_NUMERIC:
        return ImageError(
            f"{path}: {error}; check the weights with `qedge inspect --verify {path}`"
        )
    if error.code == _ERR_CONTEXT:
        return BudgetError(f"{path}: {error}; open with a longer context")
    return ImageError(f"{path}: {error}")
