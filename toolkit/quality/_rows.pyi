import numpy as np
import numpy.typing as npt

COLUMNS: int

def compare(
    base: npt.NDArray[np.float32] | None,
    other: npt.NDArray[np.float32],
    size: int,
    target: npt.NDArray[np.int32],
    first: int,
    stop: int,
    out: npt.NDArray[np.float64],
) -> None: ...
