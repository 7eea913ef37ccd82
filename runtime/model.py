"""Opens an image, checks its budget, and generates text. The policy around the engine; the
arithmetic is in engine/."""

from __future__ import annotations

from _thread import RLock, get_ident
from _weakref import ref

from qedge.runtime import arguments
from qedge.runtime._engine import ERR_SPACE, ERR_USAGE, EngineError, Image, Session
from qedge.runtime.chat import chat
from qedge.runtime.errors import BoardTestError, BudgetError, ImageError, UsageError
from qedge.runtime.generation import Clock, Generation, Stats, pieces
from qedge.runtime.image import KV_NAMES, TEMPLATE, check_untouched, open_image, provenance_of
from qedge.runtime.sampling import GREEDY, MOST_TOKENS, Sampling
from qedge.runtime.session import RESIDENT_BYTES, open_session
from qedge.runtime.text import engine_failure, text_failure

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing these takes milliseconds of a start that is counted in them
    import os
    from collections.abc import Iterator, Sequence
    from typing import Any


class Model:
    """One session on an image. Made by `Model.open`; `model.session()` gives another one.

    It belongs to the process that opened it. After a fork a child may close it, leave, open one
    of its own, or take `model.session()`, which shares the mapped image; the rest is refused.
    """

    _image: Image
    _path: str
    _session: Session | None
    _options: dict[str, Any]
    _turn: RLock  # who has it makes the session's next step
    _mark: object  # of the generation that is going on
    _held: ref[Generation] | None  # the last one; it holds us
    finish_reason: str | None
    tokens: list[int]

    def __init__(self, *_: object, **__: object) -> None:
        raise UsageError("a model is opened by Model.open(path), not by Model(path)")

    @classmethod
    def _of(cls, image: Image, path: str, session: Session, options: dict[str, Any]) -> Model:
        self = cls.__new__(cls)
        self._image, self._path, self._options = image, path, options
        self._session = session
        self._turn, self._stepping = RLock(), 0
        self._mark = self._held = None
        self.clock = Clock()
        self.finish_reason, self.tokens = None, []
        return self

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

        The file stays mapped. What is small in it is copied; weights are used in place: write
        new images beside it and rename them. One that is written over while it is used is an
        ImageError at a generation's end; one that is cut short ends the process by SIGBUS.
        """
        options: dict[str, Any] = {
            "context": context,
            "memory": memory,
            "threads": threads,
            "batch": batch,
            "kernels": kernels,
            "allow_paging": allow_paging,
            "pin": pin,
        }
        image, name = open_image(path), arguments.path_name(path)
        return cls._of(image, name, open_session(image, name, **options), options)

    @classmethod
    def of(cls, image: Image, path: str, **options: Any) -> Model:
        """A session on an image that is mapped already; options as in `open`."""
        names = ("context", "memory", "threads", "batch", "kernels")
        rest = {"allow_paging": False, "pin": False, **options}
        merged: dict[str, Any] = {**dict.fromkeys(names), **rest}
        return cls._of(image, path, open_session(image, path, **merged), merged)

    def session(self, **options: Any) -> Model:
        """Another, independent session on the same mapped image; options as in `open`."""
        merged = {**self._options, **options}
        if unknown := [name for name in options if name not in self._options]:
            known = ", ".join(self._options)
            raise UsageError(f"session() knows no {unknown[0]}; it takes {known}")
        session = open_session(self._image, self._path, **merged)
        return Model._of(self._image, self._path, session, merged)

    def close(self) -> None:
        """Gives arena and workers back. The model cannot be used afterwards. A step that runs
        in another thread is waited for: it ends with its batch or its token."""
        if self._session is not None and not self._session.elsewhere:
            self._end_generation()
            with self._turn:
                self._idle()
                self._release()
        else:  # after a fork whoever holds the turn may not be here, and never gives it back
            self._release()

    def _release(self) -> None:
        if self._held is not None and (held := self._held()) is not None:
            held.release()
        self._session = self._mark = None

    def _end_generation(self) -> None:
        """The generation that is going on has no more steps; one that runs now, in another
        thread, ends with its batch or token, and holds `_turn` until then."""
        if self.engine.elsewhere:
            raise UsageError(
                f"{self._path}: another process opened this model, before a fork; open one in "
                "this process: model.session() shares the image"
            )
        if self._stepping == get_ident():
            self._idle()  # before anything is ended
        self._mark = None

    def _idle(self) -> None:
        """With `_turn` held: UsageError when it is asked from within a step, as a signal's
        handler or a sequence of the caller's may."""
        if self._stepping:
            raise UsageError(f"{self._path}: the model is in the middle of a step; ask later")

    def forget(self, mark: object) -> None:
        """A generation's owner wants no more of it; a step that runs ends with its batch."""
        if self._mark is mark:
            self._mark = None

    def next_piece(self, mark: object, pieces: Iterator[str]) -> str:
        """A generation's next step, when no other runs. UsageError when it is not the current
        one any more."""
        if self.engine.elsewhere:
            self._end_generation()  # says so
        with self._turn:
            self.expect(mark)
            self._idle()
            self._stepping = get_ident()
            try:
                return next(pieces)
            finally:
                self._stepping = 0

    def expect(self, mark: object) -> None:
        """UsageError when a generation is not the current one any more."""
        if self._mark is not mark:
            raise UsageError(
                f"{self._path}: the model has gone on to something else, or was reset, and "
                "this generation cannot; take a model.session() for each"
            )

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
    def stats(self) -> Stats | None:
        """What the last generation took, so far if it is not at its end; None before one."""
        return self.clock.stats(len(self.tokens))

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
        return int(self._options["context"] or self._image.plan["context"])

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
        section = self._image.section(TEMPLATE)
        return None if section is None else section.decode("utf-8", "replace")

    @property
    def provenance(self) -> dict[str, Any]:
        return provenance_of(self._image)

    def tokenize(
        self, text: str | bytes, *, special: bool = False, bos: bool = False
    ) -> list[int]:
        """Ids of a text. special: control tokens written in it count; bos: begin as the model
        wants prompts to begin. ImageError when bytes are not UTF-8."""
        data = arguments.utf8("the text", text)
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
            if error.code == ERR_USAGE:
                raise self._wrong_ids() from None
            raise ImageError(f"{self._path}: {error}") from None

    def _wrong_ids(self) -> UsageError:
        most = self.config["vocab_size"] - 1
        return UsageError(f"token ids are whole numbers from 0 to {most:,}; one is not")

    def logits(self, *given: object) -> Any:
        """The last token's logits: numpy float32 (vocab_size). UsageError before any token."""
        if given:
            raise UsageError(
                "logits() are those of the last token; evaluate(tokens) comes first"
            )
        if not self.engine.position:
            raise UsageError("there are no logits yet; evaluate tokens, or generate, first")
        import numpy

        return numpy.frombuffer(self.engine.logits(), numpy.float32)

    def logits_hash(self) -> str:
        """SHA-256 of the logits that the last generation with `hash=True` drew from."""
        return self.engine.hash_digest().hex()

    def reset(self) -> None:
        """Forgets the session's tokens."""
        self._end_generation()
        with self._turn:
            self._idle()
            self._mark = None
            self.engine.rewind(0)

    def prompt_tokens(
        self, prompt: str | bytes, *, special: bool = False, bos: bool = True
    ) -> list[int]:
        """Ids of a prompt, with BOS where the model wants it; the arena is the scratch."""
        text = arguments.utf8("the prompt", prompt)
        try:
            return self.engine.encode(text, special, bos)
        except EngineError as error:
            if error.code == ERR_SPACE:
                raise BudgetError(
                    f"the prompt has {len(text):,} bytes and cannot fit a context of "
                    f"{self.context:,} tokens; shorten it or open with a longer context"
                ) from None
            raise text_failure("the prompt", len(text), error) from None

    def evaluate(self, tokens: Sequence[int]) -> None:
        """Appends tokens in batches; Ctrl-C gets through between them."""
        tokens = arguments.listed("tokens", tokens)
        self._end_generation()
        with self._turn:
            self._idle()
            self._mark = None
        self.append(tokens, None)

    def append(self, tokens: Sequence[int], mark: object) -> None:
        """Appends tokens for as long as mark's generation is the current one."""
        engine, batch = self.engine, self._options["batch"] or self._image.plan["batch"]
        room = self.context - engine.position
        if len(tokens) > room:
            raise BudgetError(
                f"the prompt has {len(tokens):,} tokens, the context has room for {room:,} of "
                f"{self.context:,}; shorten it or open with a longer context"
            )
        try:
            for start in range(0, len(tokens), batch):
                self.expect(mark)
                engine.eval(tokens[start : start + batch])
        except (OverflowError, TypeError):
            raise self._wrong_ids() from None
        except EngineError as error:
            if error.code == ERR_USAGE:
                raise self._wrong_ids() from None
            raise engine_failure(self._path, error) from None

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
    ) -> Generation:
        """Gives text pieces as they are asked for; none splits a character. Greedy at
        temperature 0.

        stop: strings that end the text and are not part of it.
        special: control tokens written in the prompt count (rendered chat templates need it).
        hash: `logits_hash()` afterwards.
        keep: go on behind the session's tokens instead of starting anew.

        After it, `finish_reason` is "stop" (end of sequence or a stop string), "length"
        (max_tokens) or "context" (full); `tokens` and `stats` say the rest.

        A session does one thing at a time. Whatever it is asked next (generate, reset,
        evaluate, close) ends a generation that is not at its end, whose next piece is a
        UsageError, and waits for a step of it that runs in another thread: a batch of the
        prompt, or a token. So with asyncio a step may be `await asyncio.to_thread(next,
        pieces, None)`, and be cancelled; where a batch takes long, generate and close too.
        """
        stops = arguments.stops(stop)
        max_tokens = arguments.whole("max_tokens", max_tokens, 1, MOST_TOKENS)
        sampling = Sampling(
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            min_p=min_p,
            repeat_penalty=repeat_penalty,
            seed=seed,
        )
        mark = object()
        self._end_generation()
        with self._turn:
            self._idle()
            self._mark = None
            if arguments.is_text(prompt):
                prompt = self.prompt_tokens(prompt, special=special)  # type: ignore[arg-type]
            ids = arguments.listed("the prompt", prompt)
            if any(isinstance(one, dict) for one in ids):
                raise UsageError("generate takes a text or ids; give messages to model.chat")
            if not ids:
                raise UsageError("the prompt is empty; give at least one token")
            if not keep:
                self.engine.rewind(0)
            elif self.tokens and self.engine.position:  # the last was drawn, never evaluated
                ids = [self.tokens[-1], *ids]
            self.engine.set_sampler(*sampling.values)
            self.engine.hash_reset()
            self.finish_reason, self.tokens, self.clock = None, [], Clock()
            self._mark = mark
            at = self.engine.position
            found = Generation(self, mark, pieces(self, mark, at, ids, max_tokens, stops, hash))
            self._held = ref(found)
            return found

    def golden(self) -> tuple[list[int], list[int], str] | None:
        """The image's own proof: prompt, expected tokens, logits_hash; None: it has none."""
        return self._image.golden()

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
        self.reset()
        engine.hash_reset()
        engine.set_sampler(*GREEDY.values)
        self.evaluate(prompt)
        tokens: list[int] = []
        try:
            while True:
                engine.hash_logits()
                tokens.append(engine.sample())
                if len(tokens) == count:
                    break
                engine.eval((tokens[-1],))
        except EngineError as error:
            raise engine_failure(self._path, error) from None
        check_untouched(self._image, self._path)
        return tokens, engine.hash_digest().hex()

    chat = chat
