"""The link: how the toolkit talks to a board, over any line that carries bytes (docs/link.md).

`frame` puts packets on the line, `client` asks and gets answers, `device` knows the messages,
`answers` believes nothing.
Nothing here knows what kind of board is at the other end.
"""

from qedge.toolkit.link.answers import Hello, Slot
from qedge.toolkit.link.client import Link, open_line
from qedge.toolkit.link.device import LinkedDevice

__all__ = ["LinkedDevice", "Hello", "Link", "Slot", "open_line"]
