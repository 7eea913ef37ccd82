import numpy as np
import numpy.typing as npt

TQ1_0: int

def takes(source: int, target: int) -> bool: ...
def row_bytes(kind: int, columns: int) -> int: ...
def tensor_bytes(kind: int, layout: int, rows: int, columns: int) -> int: ...
def pack(
    stored: npt.NDArray[np.uint8],
    order: npt.NDArray[np.intp] | None,
    columns: int,
    source: int,
    target: int,
    first: int,
    stop: int,
    layout: int,
    out: npt.NDArray[np.uint8],
) -> int: ...
def unpack(
    groups: npt.NDArray[np.uint8], kind: int, layout: int, out: npt.NDArray[np.float32]
) -> None: ...
