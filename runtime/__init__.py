"""qedge.runtime: runs a flash image in a fixed amount of memory.

    from qedge.runtime import Model

    with Model.open("model.qimg", memory="300M") as model:
        for piece in model.generate("Once upon a time", max_tokens=64):
            print(piece, end="", flush=True)

Needs nothing but Python; numpy only when `Model.logits` is asked for an array.
"""

from __future__ import annotations

from qedge.runtime._engine import wrong_kernels
from qedge.runtime.errors import (
    BoardTestError,
    BudgetError,
    FetchError,
    ImageError,
    NoBoardError,
    QedgeError,
    SeveralBoardsError,
    ToolError,
    UsageError,
    VerifyError,
    WriteError,
    WrongBoardError,
)
from qedge.runtime.generation import Stats
from qedge.runtime.model import Model

__all__ = [
    "BoardTestError",
    "BudgetError",
    "FetchError",
    "ImageError",
    "Model",
    "NoBoardError",
    "QedgeError",
    "SeveralBoardsError",
    "Stats",
    "ToolError",
    "UsageError",
    "VerifyError",
    "WriteError",
    "WrongBoardError",
]

# A wheel may have been built for other processors; better no text than a wrong one.
if _wrong := wrong_kernels():
    raise BoardTestError(
        f"qedge.runtime: its {_wrong} kernels compute something else than plain C does on this "
        "machine; install a wheel that was built for it (qedge wheel -b BOARD)"
    )
