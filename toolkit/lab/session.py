"""Short sessions with a labgrid coordinator, for callers without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from qedge.runtime.errors import NoBoardError, UsageError

ANSWER_SECONDS = 10.0  # for each question to the coordinator
_Result = TypeVar("_Result")


def to_its_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Runs it in a thread of its own (the caller may have an event loop). An interrupt does not
    leave it half done; it is raised afterwards."""
    ended: list[_Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            ended.append(asyncio.run(work))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    interrupt: KeyboardInterrupt | None = None
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
    if failed:
        raise failed[0]
    return ended[0]


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
