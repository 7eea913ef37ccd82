"""Short sessions with a labgrid coordinator, for callers without an event loop."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from qedge.runtime.errors import NoBoardError, QedgeError, UsageError
from qedge.runtime.text import printable

ANSWER_SECONDS = 10.0  # for each question to the coordinator
_Result = TypeVar("_Result")


def to_its_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs it in a thread of its own: the caller may have an event loop. Ctrl-C and SIGTERM
    wait for it, so a place is never taken without our knowing, or not given back."""
    ended: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            ended.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    with _signals_wait():
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    if failed:
        error = failed[0]
        if isinstance(error, QedgeError):  # names and reasons of other people are in it
            raise type(error)(printable(str(error))) from error
        raise error
    return ended[0]


@contextmanager
def _signals_wait() -> Iterator[None]:
    """What comes meanwhile comes afterwards. (Only the main thread gets any.)"""
    came: list[int] = []
    before: dict[int, Any] = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for one in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(one) is not None:  # None: not of Python's making
                    before[one] = signal.getsignal(one)
                    signal.signal(one, lambda number, _: came.append(number))
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


@asynccontextmanager
async def session_with(address: str) -> AsyncIterator[Any]:
    """A client's session that knows all places and resources."""
    import grpc
    from labgrid.remote.client import ClientSession, Error
    from labgrid.util.proxy import ProxyError, proxymanager

    advice = "start one with labgrid-coordinator, or set LG_COORDINATOR=HOST:PORT"
    try:
        full = proxymanager.get_grpc_address(address, default_port=20408)
    except (ProxyError, ValueError) as error:
        raise UsageError(f"{address}: not a coordinator's address; {advice}") from error
    session = ClientSession(full, asyncio.get_running_loop())
    started = False
    try:
        async with _deadline(f"{full}: no labgrid coordinator answers; {advice}"):
            state = session.channel.get_state(try_to_connect=True)
            while state is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise asyncio.TimeoutError
                await session.channel.wait_for_state_change(state)
                state = session.channel.get_state(try_to_connect=True)
            started = True
            try:
                await session.start()
            except Error as error:
                raise asyncio.TimeoutError from error
        yield session
    except grpc.aio.AioRpcError as error:
        raise NoBoardError(f"{full}: the coordinator says: {error.details()}") from error
    finally:
        if started:
            session.stopping.set()
            await session.stop()
        await session.close()


@asynccontextmanager
async def _deadline(complaint: str) -> AsyncIterator[None]:
    """asyncio.timeout, which Python 3.10 has not."""
    task = asyncio.current_task()
    assert task is not None
    late = False

    def cancel() -> None:
        nonlocal late
        late = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(ANSWER_SECONDS, cancel)
    try:
        yield
    except (asyncio.CancelledError, asyncio.TimeoutError) as error:
        if isinstance(error, asyncio.CancelledError) and not late:
            raise
        raise NoBoardError(complaint) from error
    finally:
        timer.cancel()


async def reservations(session: Any) -> list[Any]:
    from labgrid.remote.common import Reservation
    from labgrid.remote.generated import labgrid_coordinator_pb2 as messages

    answer = await session.stub.GetReservations(
        messages.GetReservationsRequest(), timeout=ANSWER_SECONDS
    )
    return [Reservation.from_pb2(one) for one in answer.reservations]
