"""The one family of errors, shared by the runtime and the toolkit.

Every expected failure is one of these: it says what, where and what to do, and each class has
its exit code.  Anything else that escapes is a bug (exit code 1).
"""

from __future__ import annotations


class QedgeError(Exception):
    """Base of all expected failures. `exit_code` is the process exit code of the class."""

    exit_code = 1


class UsageError(QedgeError):
    """The call itself is wrong: an unknown option, a value out of range."""

    exit_code = 2


class NoBoardError(QedgeError):
    """No board answers to the name or port."""

    exit_code = 3


class SeveralBoardsError(QedgeError):
    """More than one board matches."""

    exit_code = 4


class WrongBoardError(QedgeError):
    """The board that answers is not the board that was named."""

    exit_code = 5


class ImageError(QedgeError):
    """A file is bad: an image, a model or a text (also a weight that fails verification)."""

    exit_code = 6


class BudgetError(QedgeError):
    """It does not fit: arena, context, flash or RAM."""

    exit_code = 7


class WriteError(QedgeError):
    """Writing failed: disk full, no permission, connection lost."""

    exit_code = 8


class VerifyError(QedgeError):
    """What was written does not read back as it should."""

    exit_code = 9


class BoardTestError(QedgeError):
    """The golden test did not give the expected tokens or logits."""

    exit_code = 10


class FetchError(QedgeError):
    """What has to be fetched did not come: no network, or no such file there."""

    exit_code = 11


class ToolError(QedgeError):
    """A program or library that this needs is not on this machine, or failed: a compiler, npm,
    apt, e2fsprogs, zig, jinja2."""

    exit_code = 12
