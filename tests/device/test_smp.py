"""Tools that speak SMP work with a board: smpclient's serial transport and its upload."""

from __future__ import annotations

import asyncio
from pathlib import Path

from device.conftest import MakeImage, put
from smpclient import SMPClient
from smpclient.generics import success
from smpclient.requests.image_management import (
    ImageErase,
    ImageStatesRead,
    ImageStatesWrite,
)
from smpclient.requests.os_management import EchoWrite, MCUMgrParametersRead, ResetWrite
from smpclient.transport.serial import SMPSerialTransport

from qedge.toolkit import remote
from qedge.toolkit.board import Board
from qedge.toolkit.emulator import Emulator


def test_smpclient_uploads_confirms_and_resets(
    sim: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    old, new = make_image("sim", seed=1), make_image("sim", seed=2)

    async def talk(port: str) -> None:
        async with SMPClient(SMPSerialTransport(), port) as client:
            echo = await client.request(EchoWrite(d="are you there"))
            assert success(echo) and echo.r == "are you there"
            parameters = await client.request(MCUMgrParametersRead())
            assert success(parameters) and parameters.buf_size >= 1024
            sent = [offset async for offset in client.upload(new.read_bytes())]
            assert sent[-1] == new.stat().st_size and sent == sorted(sent)
            states = await client.request(ImageStatesRead())
            assert success(states)
            assert [(i.slot, i.active) for i in states.images] == [(0, True), (1, False)]
            wanted = states.images[1].hash
            assert success(await client.request(ImageStatesWrite(hash=wanted, confirm=True)))
            states = await client.request(ImageStatesRead())
            assert success(states)
            assert states.images[0].hash == wanted and states.images[0].active
            refused = await client.request(ImageStatesWrite(hash=bytes(32), confirm=True))
            assert not success(refused)
            assert success(await client.request(ImageErase(slot=1)))
            assert success(await client.request(ResetWrite()))

    with Emulator(sim, tmp_path / "flash.bin") as emulator:
        device = emulator.connect()
        put(device, old, sim)
        device.close()
        asyncio.run(talk(emulator.port))
        device = emulator.connect()
        assert device.hello(patience=10).image_id is not None
        assert put(device, new, sim).bytes_sent == 0
        assert remote.test(device)
        device.close()
