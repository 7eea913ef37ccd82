"""An agent of this process, as a line."""

from __future__ import annotations

from qedge.runtime.agent.answers import Agent


class Local:
    """An agent of this process as a line."""

    def __init__(self, agent: Agent) -> None:
        self.agent, self._came = agent, bytearray()

    @property
    def in_waiting(self) -> int:
        return len(self._came)

    def read(self, size: int = 1) -> bytes:
        data = bytes(self._came[:size])
        del self._came[:size]
        return data

    def write(self, data: bytes) -> int:
        self._came += self.agent.answer(data) or b""
        return len(data)

    def close(self) -> None:
        self.agent.close()
