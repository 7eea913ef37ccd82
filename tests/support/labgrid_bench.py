"""A labgrid bench for tests: a coordinator and an exporter as processes, boards behind TCP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import serial
import serial.rfc2217
from labgrid.remote.generated import labgrid_coordinator_pb2 as messages
from labgrid.remote.generated import labgrid_coordinator_pb2_grpc as services

from qedge.toolkit.lab.session import session_with

SECONDS = 20.0  # for anything to come true
SCRIPTS = Path(sys.executable).parent
HOLDER = """
import sys
from qedge.runtime.errors import QedgeError
from qedge.toolkit.board import load
from qedge.toolkit.device.reach import reach
try:
    with reach(load("sim"), sys.argv[1], say=print) as there:
        print("in", there.hello.board_id, flush=True)
        sys.stdin.read()
except QedgeError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Line(serial.Serial):
    """A pseudo terminal, which has no modem's lines."""

    cts = dsr = ri = cd = True
    rts = dtr = False


class Bridge:
    """A serial line as a TCP server has it: raw, or by RFC 2217."""

    def __init__(self, line: str, telnet: bool = False) -> None:
        self._line, self._telnet = line, telnet
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:  # closed
                return
            with peer, contextlib.suppress(OSError):
                self._carry(peer)

    def _carry(self, peer: socket.socket) -> None:
        with Line(self._line, timeout=0) as line:
            writer = peer.makefile("wb", buffering=0)
            manager = serial.rfc2217.PortManager(line, writer) if self._telnet else None
            while True:
                ready, _, _ = select.select([peer, line], [], [])
                if peer in ready:
                    data = peer.recv(65536)
                    if not data:
                        return
                    line.write(b"".join(manager.filter(data)) if manager else data)
                if line in ready:
                    data = line.read(65536)
                    peer.sendall(b"".join(manager.escape(data)) if manager else data)

    def close(self) -> None:
        self._server.close()


class Bench:
    """The coordinator as tests see it: places, who holds them, and labgrid's own client."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address, self.folder = address, folder
        self._channel = grpc.insecure_channel(address)
        grpc.channel_ready_future(self._channel).result(timeout=SECONDS)
        self.stub: Any = services.CoordinatorStub(self._channel)

    def close(self) -> None:
        self._channel.close()

    def add(self, name: str, *patterns: str) -> None:
        self.stub.AddPlace(messages.AddPlaceRequest(name=name))
        for pattern in patterns:
            self.stub.AddPlaceMatch(
                messages.AddPlaceMatchRequest(placename=name, pattern=pattern)
            )
        tags = messages.SetPlaceTagsRequest(placename=name, tags={"name": name})
        self.stub.SetPlaceTags(tags)

    def holder(self, name: str) -> str:
        """Who holds a place; "" for nobody."""
        places = self.stub.GetPlaces(messages.GetPlacesRequest()).places
        return next(str(place.acquired) for place in places if place.name == name)

    def wait_for_holder(self, name: str, holder: str) -> None:
        last = time.monotonic() + SECONDS
        while self.holder(name) != holder:
            assert time.monotonic() < last, f"{name} is held by {self.holder(name) or 'nobody'}"

    def surroundings(self, user: str) -> dict[str, str]:
        return {
            **os.environ,
            "LG_COORDINATOR": self.address,
            "LG_HOSTNAME": "bench",
            "LG_USERNAME": user,
            "QEDGE_CACHE": str(self.folder / f"cache-{user}"),
        }

    def labgrid(self, user: str, *arguments: str) -> str:
        code, out, complaints = self.run(user, "labgrid-client", *arguments)
        assert code == 0, complaints
        return out

    def start(self, user: str, *command: str, **more: str) -> subprocess.Popen[str]:
        """A program of this environment."""
        call = [str(SCRIPTS / command[0]), *command[1:]]
        pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        surroundings = self.surroundings(user) | more
        return subprocess.Popen(call, env=surroundings, text=True, **pipes)

    def run(self, user: str, *command: str, **more: str) -> tuple[int, str, str]:
        """Exit code, answers and messages."""
        process = self.start(user, *command, **more)
        out, complaints = process.communicate(timeout=60)
        return process.returncode, out, complaints

    def hold(self, user: str, port: str) -> subprocess.Popen[str]:
        """A toolkit that uses a board until its standard input ends. Says `in` when it does."""
        return self.start(user, "python", "-c", HOLDER, port)


@contextmanager
def running_bench(folder: Path, resources: dict[str, dict[str, Any]]) -> Iterator[Bench]:
    """resources: a labgrid exporter's groups; its name is `rack`."""
    address = f"127.0.0.1:{free_port()}"
    (folder / "rack.yaml").write_text(json.dumps(resources))  # JSON is YAML
    with contextlib.ExitStack() as stack:
        for name, *arguments in (
            ("labgrid-coordinator", "-l", address),
            ("labgrid-exporter", "-c", address, "-n", "rack", "--hostname", "127.0.0.1"),
        ):
            if name == "labgrid-exporter":
                bench = stack.enter_context(contextlib.closing(Bench(address, folder)))
                arguments.append("rack.yaml")
            log = stack.enter_context(open(folder / f"{name}.log", "wb"))
            process = subprocess.Popen(
                [str(SCRIPTS / name), *arguments],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )
            stack.callback(process.wait)
            stack.callback(process.terminate)
        last = time.monotonic() + SECONDS
        while not set(resources) <= asyncio.run(_groups(address)):
            assert process.poll() is None and time.monotonic() < last
        yield bench


async def _groups(address: str) -> set[str]:
    async with session_with(address) as session:
        return set(session.resources.get("rack", {}))
