"""Tools that speak SMP work with a board: smpclient's serial transport and its upload."""

from __future__ import annotations

import asyncio
from pathlib import Path

from bare.conftest import MakeImage, put
from bare.test_repair import flip
from smpclient import SMPClient
from smpclient.generics import success
from smpclient.requests.image_management import (
    ImageErase,
    ImageStatesRead,
    ImageStatesWrite,
)
from smpclient.requests.os_management import EchoWrite, MCUMgrParametersRead, ResetWrite
from smpclient.transport.serial import SMPSerialTransport

from qedge.runtime.image import open_image
from qedge.toolkit.board import Board
from qedge.toolkit.device import remote
from qedge.toolkit.emulators.bare import Emulator


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


def test_what_is_active_and_damaged_is_not_confirmed_until_it_is_uploaded_again(
    sim: Board, make_image: MakeImage, tmp_path: Path
) -> None:
    image, place = make_image("sim", seed=1), tmp_path / "flash.bin"

    async def confirmed(port: str, upload: bool) -> bool:
        async with SMPClient(SMPSerialTransport(), port, timeout_s=60) as client:
            if upload:
                _ = [offset async for offset in client.upload(image.read_bytes())]
            wanted = open_image(image).id
            return bool(success(await client.request(ImageStatesWrite(hash=wanted))))

    def active(emulator: Emulator) -> int | None:
        device = emulator.connect()
        try:
            return device.hello().active
        finally:
            device.close()

    with Emulator(sim, place) as emulator:
        device = emulator.connect()
        put(device, image, sim)
        device.close()
        assert asyncio.run(confirmed(emulator.port, upload=True))
        assert active(emulator) == 0  # it was whole
        flip(place, sim, 0, 100_000)
        flip(place, sim, 1, 100_000)
        assert not asyncio.run(confirmed(emulator.port, upload=False))
        assert asyncio.run(confirmed(emulator.port, upload=True))
        assert active(emulator) == 1
        device = emulator.connect()
        assert remote.test(device)
        device.close()
