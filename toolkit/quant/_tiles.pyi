import numpy as np
import numpy.typing as npt

TYPES: dict[str, int]

def pack(
    stored: npt.NDArray[np.uint8],
    order: npt.NDArray[np.intp] | None,
    columns: int,
    source: str,
    target: str,
    first: int,
    stop: int,
    rows: int,
    group: int,
    out: npt.NDArray[np.uint8],
) -> int: ...
