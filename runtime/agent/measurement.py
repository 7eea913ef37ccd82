"""A measurement (measure.py) that the agent makes while it goes on answering."""

from __future__ import annotations

from qedge.runtime.agent.numbers import LINK_ENGINE, LINK_MESSAGE
from qedge.runtime.agent.slots import SlotError
from qedge.runtime.errors import BudgetError, QedgeError
from qedge.runtime.model import Model

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class _Stopped(Exception):
    pass


class Measurement:
    """A measurement (measure.py) in a thread of its own, so that the link stays alive."""

    def __init__(
        self, path: str, values: dict[str, Any], within: float, session: dict[str, Any]
    ) -> None:
        """values: of the message. session: options of `Model.open`."""
        import threading

        from qedge.runtime.measure.rounds import measure

        self.ended = threading.Event()
        self.error: Exception | None = None
        self.results: dict[str, Any] = {}
        self.at, self.of = 0, 1
        self._stopped = False
        options: dict[str, Any] = {
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
                    lambda: Model.open(path, **session),
                    within=within,
                    allow_paging=bool(session.get("allow_paging")),
                    progress=self._progress,
                    **options,
                )
            except _Stopped:
                pass
            except BudgetError as error:
                self.error = SlotError(LINK_ENGINE + 4, str(error))
            except QedgeError as error:
                self.error = SlotError(LINK_MESSAGE, str(error))
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
