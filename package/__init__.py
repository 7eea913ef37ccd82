"""qedge: language models in one flash image. `qedge.Model` runs one, `qedge.Board` is one that
runs it elsewhere.

This file holds no code of its own: what is asked of it comes from `qedge.runtime`, when it is
asked. The rooms are `qedge.runtime` and, on the developer's machine, `qedge.toolkit`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from qedge.runtime import (
        BoardTestError,
        BudgetError,
        FetchError,
        ImageError,
        Model,
        NoBoardError,
        QedgeError,
        SeveralBoardsError,
        Stats,
        ToolError,
        UsageError,
        VerifyError,
        WriteError,
        WrongBoardError,
    )
    from qedge.toolkit.device.there import BoardTarget as Board

    __version__: str

__all__ = [
    "Board",
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
    "__version__",
]


def __getattr__(name: str) -> object:
    """Loaded at the first use: `import qedge.toolkit` need not load the engine."""
    if name == "__version__":
        from importlib.metadata import version

        found: object = version("qedge")
    elif name == "Board":
        from qedge.toolkit.device.there import BoardTarget as found
    elif name in __all__:
        from qedge import runtime

        found = getattr(runtime, name)
    else:
        raise AttributeError(f"qedge has no {name}; it has {', '.join(__all__)}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
