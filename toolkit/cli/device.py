"""The verbs of boards beside `flash`: emulated ones, firmware, wheels, keys."""

from __future__ import annotations

import signal
import tempfile
import threading
from dataclasses import asdict
from pathlib import Path

import click

from qedge.runtime import NoBoardError
from qedge.runtime.text import printable
from qedge.toolkit.cli.common import (
    board_argument,
    check_identity,
    connected,
    emit,
    json_option,
    port_option,
)

key_option = click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="A public key: the board takes images signed by its owner only.",
)


def trusted(key: Path | None) -> bytes | None:
    """The key's bytes, when one was given."""
    if key is None:
        return None
    from qedge.toolkit.make.signature import public_key

    return public_key(key)


@click.command()
@board_argument
@port_option
@json_option
def reset(name: str, port: str | None, identity: str | None, as_json: bool) -> None:
    """Restart a board; the active image stays."""
    from qedge.toolkit.board import load

    with connected(load(name), port, identity) as (device, hello):
        device.reset()
    emit(as_json, {"board": hello.board, "board_id": hello.board_id})
    if not as_json:
        print(printable(f"{hello.board} {hello.board_id}: reset"))


@click.command()
@board_argument
@port_option
@json_option
def rollback(name: str, port: str | None, identity: str | None, as_json: bool) -> None:
    """Go back to the image that was active before, verified and tested again."""
    from qedge.toolkit.board import load
    from qedge.toolkit.device.remote import rollback as go_back

    with connected(load(name), port, identity) as (device, before):
        after = go_back(device)
    fields = {
        "board": after.board,
        "board_id": after.board_id,
        "slot": after.active,
        "image_id": after.image_id,
        "before": before.image_id,
    }
    emit(as_json, fields)
    if not as_json:
        print(printable(f"{after.board} {after.board_id}: {after.image_id} is active again"))


@click.command()
@board_argument
@click.option(
    "--flash-file", type=click.Path(path_type=Path), help="Keeps the board's flash, or disk."
)
@click.option(
    "--identity",
    envvar="QEDGE_IDENTITY",
    type=click.Path(path_type=Path),
    help="A board with Linux: the private key that may log in, instead of qedge's own for "
    "emulated boards; default: QEDGE_IDENTITY.",
)
@click.option(
    "--image",
    type=click.Path(path_type=Path),
    help="A microcontroller: an image that lies in its flash as it starts, a new one.",
)
@key_option
@json_option
def emulate(
    name: str,
    flash_file: Path | None,
    identity: Path | None,
    image: Path | None,
    key: Path | None,
    as_json: bool,
) -> None:
    """Start an emulated board and stay until interrupted; prints its port."""
    from qedge.toolkit.board import load
    from qedge.toolkit.cli import show
    from qedge.toolkit.emulators.choose import emulated, missing
    from qedge.toolkit.emulators.emulated import no_way

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    board = load(name)
    check_identity(board)
    if need := missing(board):
        raise no_way(board, need)
    show.say(f"{name}: making what it runs, unless it is there")
    with tempfile.TemporaryDirectory() as folder:
        place = flash_file or Path(folder) / "flash"
        made = emulated(
            board,
            place,
            identity=identity if board.linux else None,
            key=trusted(key),
            image=image,
        )
        if flash_file is None:
            show.say("no --flash-file: what is flashed is gone when this ends")
        with made as emulator:
            fields = {"port": emulator.port, "board": board.name, **emulator.facts()}
            if emulator.usb_port:
                fields["usb_port"] = emulator.usb_port
            way = f" --identity {emulator.identity}" if emulator.identity else ""
            emit(as_json, fields)
            if not as_json:
                print(f"{emulator.port}{way}", flush=True)
                if emulator.usb_port:
                    show.say(f"its serial port over USB: {emulator.usb_port}")
                loaded = board.device is not None and board.device.flash_loaded
                verb = "run" if loaded else "flash IMAGE"
                show.say(f"try: qedge {verb} -b {name} -p {emulator.port}{way}")
            while not stop.wait(0.2):
                if emulator.ended is not None:
                    raise NoBoardError(emulator.end_text())


def list_connected(ports: tuple[str, ...], identity: str | None, as_json: bool) -> None:
    """`qedge boards --connected`: a line each, also where nothing answers."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.device.connected import look

    found = look(ports, identity, show.say)
    emit(as_json, {"connected": [asdict(one) for one in found]})
    if as_json:
        return
    if not found:
        print("no serial port is behind USB here; give others, and user@host, with -p")
    for one in found:
        if not one.board:
            print(f"{one.port}: no board answers ({one.note})")
            continue
        parts = [one.board, f"id {one.board_id or '-'}", f"image {one.image_id or 'none'}"]
        parts += [*(["emulated"] if one.emulated else []), *([one.note] if one.note else [])]
        print(f"{one.port}: {', '.join(parts)}")


@click.group()
def firmware() -> None:
    """The firmware of boards."""


@firmware.command("build")
@click.option("-b", "--board", "name", required=True, help="The board's name.")
@click.option("--compiler", help="arm-none-eabi-gcc or zig; default: the first there is.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The file to write: .elf, .hex (Intel), .bin (all from the start of flash), or .uf2.",
)
@key_option
@json_option
def firmware_build(
    name: str, compiler: str | None, output: Path | None, key: Path | None, as_json: bool
) -> None:
    """Compile the firmware for a board."""
    from qedge.toolkit.bare.output import write
    from qedge.toolkit.board import load
    from qedge.toolkit.cli import show

    board = load(name)
    path = output or Path(f"{board.name}-firmware.elf")
    made = write(board, path, compiler=compiler, key=trusted(key))
    fields = {**asdict(made.firmware), "path": path}
    emit(as_json, fields)
    if not as_json:
        show.table("firmware", fields, answer=True)
        if made.way is not None:
            show.say(made.way)


@firmware.command("size")
@click.option("-b", "--board", "name", required=True, help="The board's name.")
@key_option
@json_option
def firmware_size(name: str, key: Path | None, as_json: bool) -> None:
    """What a board's firmware takes: flash, RAM, and stack along its deepest path of calls."""
    from qedge.toolkit.bare.sizes import measure
    from qedge.toolkit.board import load
    from qedge.toolkit.cli import show

    fields = asdict(measure(load(name), key=trusted(key)))
    emit(as_json, fields)
    if not as_json:
        fields["stack_path"] = ", ".join(fields["stack_path"])
        show.table("size", fields, answer=True)


@click.command()
@click.option(
    "-b", "--board", "name", required=True, help="A board with Linux, or an architecture."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The folder to write to; default: here.",
)
@json_option
def wheel(name: str, output: Path, as_json: bool) -> None:
    """Build the runtime's wheel for a board, which then needs no compiler."""
    from qedge.toolkit.cli import show
    from qedge.toolkit.linux.wheel import build_wheel

    fields = asdict(build_wheel(name, output))
    emit(as_json, fields)
    if not as_json:
        show.table("wheel", fields, answer=True)


@click.group()
def keys() -> None:
    """Keys that images are signed with."""


@keys.command("new")
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def keys_new(path: Path, as_json: bool) -> None:
    """Make a key: FILE for whoever signs, FILE.pub for the firmware."""
    from qedge.toolkit.make.signature import new_key

    public = new_key(path)
    emit(as_json, {"private": path, "public": public})
    if not as_json:
        print(f"{path} (keep it secret) and {public} (for `qedge firmware build --key`)")


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), help="A private key.")
@click.option(
    "--counter",
    default=0,
    show_default=True,
    help="Security counter: boards take no image below the largest they have accepted.",
)
@json_option
def sign(image: Path, key: Path, counter: int, as_json: bool) -> None:
    """Sign IMAGE, in place of a signature that it has."""
    from qedge.toolkit.make.signature import private_key
    from qedge.toolkit.make.signature import sign as sign_image

    sign_image(image, private_key(key), counter)
    emit(as_json, {"image": image, "counter": counter})
    if not as_json:
        print(f"{image}: signed, security counter {counter}")


VERBS = (rollback, reset, emulate, firmware, wheel, keys, sign)
