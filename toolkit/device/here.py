"""An image on this machine as a target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qedge.runtime.image import EVERY_PROMPT, verify_image
from qedge.runtime.machine import peak_rss_bytes
from qedge.runtime.model import Model
from qedge.runtime.sampling import Sampling

if TYPE_CHECKING:
    from qedge.toolkit.device.target import Ask, Progress, Rounds


class ImageTarget:
    """An image, opened for each thing that it is asked."""

    def __init__(self, path: str, *, verify: bool = False, **session: Any) -> None:
        """verify: every byte of it, before a run. session: options of `Model.open`."""
        self.name = path
        self._verify, self._session = verify, session

    @property
    def board(self) -> str:
        from qedge.toolkit.board import host_name

        return host_name()

    def _open(self) -> Model:
        return Model.open(self.name, **self._session)

    def run(self, ask: Ask) -> RunningHere:
        Sampling(**ask.sampling)
        return RunningHere(self._open(), ask, verify=self._verify)

    def test(self) -> dict[str, Any]:
        with self._open() as model:
            verify_image(model.image, self.name)  # a damaged file is not the engine's fault
            return {"passed": True, "logits_hash": model.test(), "kernels": model.kernels}

    def bench(self, rounds: Rounds, progress: Progress | None = None) -> dict[str, Any]:
        from qedge.runtime.measure.rounds import measure

        given = {name: value for name, value in rounds._asdict().items() if value is not None}
        return measure(
            self.name,
            self._open,
            allow_paging=bool(self._session.get("allow_paging")),
            progress=(lambda done, of: progress("measure", done, of)) if progress else None,
            **given,
        )


class RunningHere:
    """A generation by an image here, whose model is closed at its end."""

    def __init__(self, model: Model, ask: Ask, *, verify: bool) -> None:
        self._model, self._ask, self._verify = model, ask, verify
        self._fields: dict[str, Any] = {}

    def __iter__(self) -> Iterator[str]:
        ask = self._ask
        with self._model as model:
            if self._verify:
                verify_image(model.image, model.path)
            ids = _ids(model, ask)
            pieces = []
            for piece in model.generate(
                ids, ask.max_tokens, hash=ask.hash, stop=ask.stop, **ask.sampling
            ):
                pieces.append(piece)
                yield piece
            stats = model.stats
            self._fields = {
                "text": "".join(pieces),
                "tokens": model.tokens,
                "finish_reason": model.finish_reason,
                **(stats._asdict() if stats is not None else {}),
                "arena_bytes": model.arena_bytes,
                "peak_rss_bytes": peak_rss_bytes(),
                "resident_bytes": model.resident_bytes,  # that the plan allows for
                "kernels": model.kernels,
                "image_id": model.image_id,
            }
            if ask.hash:
                self._fields["logits_hash"] = model.logits_hash()

    def fields(self) -> dict[str, Any]:
        return self._fields


def _ids(model: Model, ask: Ask) -> list[int]:
    """The ids of a prompt; a plain one needs nothing of conversations."""
    marked = not ask.raw and (model.chat_template or "").startswith(EVERY_PROMPT)
    if not ask.chat and ask.system is None and not marked:
        return model.prompt_tokens(ask.prompt, special=ask.special)
    from qedge.toolkit.chat.prompts import ids_here

    return ids_here(model, ask.prompt, **ask.form)
