"""The agent on a board with Linux: answers the link on its standard streams, or on a serial
line.

    python -m qedge.runtime.agent --root ~/.local/share/qedge --board pi5

It speaks what the firmware speaks (docs/link.md). Needs nothing but Python. It ends when its
input does, so a connection that is lost leaves nothing behind; who holds the lock and is silent
for LOCK_SECONDS is taken for dead.
"""

from __future__ import annotations

import os
import select
import time

from qedge.runtime.agent.answers import Agent
from qedge.runtime.agent.frame import Decoder, StreamDecoder, encode

LOCK_SECONDS = 60.0
_READ_BYTES = 1 << 18


def serve(agent: Agent, source: int, output: int, *, noisy: bool) -> None:
    """Answers what comes from one descriptor on another, until it ends. noisy: the line is a
    serial one, where packets are framed."""
    decoder = Decoder() if noisy else StreamDecoder()
    while True:
        if agent.locked:
            ready, _, _ = select.select([source], [], [], LOCK_SECONDS)
            if not ready:
                return  # whoever held the lock is gone
        try:
            data = os.read(source, _READ_BYTES)
        except OSError:
            return
        if not data:
            return
        for packet in decoder.feed(data):
            answer = agent.answer(packet)
            left = encode(answer) if noisy and answer is not None else answer or b""
            while left:
                try:
                    left = left[os.write(output, left) :]
                except OSError:
                    return


def _serial(path: str, baud: int) -> int:
    """A serial line, raw. termios takes the usual speeds only. One that is not there ends the
    agent: the service starts it anew until it is (a line that comes back is another device,
    which systemd lets nobody have who was started before)."""
    import termios
    import tty

    try:
        number = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(number)
    except (OSError, termios.error) as error:
        reason = error.args[1] if len(error.args) > 1 else error
        raise SystemExit(f"{path}: {reason}; the service waits for this line") from None
    speed = getattr(termios, f"B{baud}", None)
    if speed is None:
        raise SystemExit(f"{path}: no speed of {baud} baud; take 115200")
    settings = termios.tcgetattr(number)
    settings[4] = settings[5] = speed
    settings[2] |= termios.CLOCAL | termios.CREAD
    termios.tcsetattr(number, termios.TCSANOW, settings)
    return number


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(prog="qedge.runtime.agent", description=__doc__)
    parser.add_argument("--root", default=os.path.expanduser("~/.local/share/qedge"))
    parser.add_argument("--board", required=True)
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--serial", metavar="DEVICE")
    parser.add_argument("--baud", type=int, default=115200)
    options = parser.parse_args()
    agent = Agent(os.path.expanduser(options.root), options.board, options.emulated)
    try:
        if options.serial:
            while True:
                line = _serial(options.serial, options.baud)
                serve(agent, line, line, noisy=True)
                os.close(line)
                agent.close()
                time.sleep(1.0)  # a line without another end, or one that is going
        output = os.dup(1)
        os.dup2(2, 1)  # nothing that prints may talk into the link
        serve(agent, 0, output, noisy=False)
    except KeyboardInterrupt:
        pass
    finally:
        agent.close()


if __name__ == "__main__":
    main()
