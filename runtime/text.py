"""Token bytes to text pieces: whole characters only, and stop strings."""

from __future__ import annotations

import codecs


class StopText:
    """Turns token bytes into text: whole characters only, and nothing that may yet become the
    beginning of a stop string."""

    def __init__(self, stops: list[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = stops
        self._held = ""
        self.stopped = False

    def add(self, data: bytes) -> str:
        return self._release(self._decoder.decode(data), final=False)

    def finish(self) -> str:
        if self.stopped:
            return ""
        return self._release(self._decoder.decode(b"", final=True), final=True)

    def _release(self, text: str, final: bool) -> str:
        self._held += text
        ends = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if ends:
            self.stopped = True
            out, self._held = self._held[: min(ends)], ""
            return out
        hold = 0
        if not final:
            for stop in self._stops:
                for size in range(min(len(stop) - 1, len(self._held)), hold, -1):
                    if self._held.endswith(stop[:size]):
                        hold = size
                        break
        cut = len(self._held) - hold
        out, self._held = self._held[:cut], self._held[cut:]
        return out
