"""A process that works for `compare`: JSON lines in, JSON lines out; it ends when its input
does.

    {"piece": …, "threads": n} -> {"found": [base64, …]}
    {"bench": path, "rounds": …} -> {"found": results of a measurement}
    an expected failure -> {"error": class, "message": text}
"""

from __future__ import annotations

import base64
import json
import os
import sys
from typing import Any

from qedge.runtime import errors
from qedge.runtime.errors import QedgeError


def answer(job: dict[str, Any]) -> Any:
    """What a job gives."""
    if "bench" in job:  # a process that measures loads nothing that it does not need
        from qedge.toolkit.device.here import ImageTarget
        from qedge.toolkit.device.target import Rounds

        return ImageTarget(job["bench"]).bench(Rounds(**job["rounds"]))
    from qedge.toolkit.quality.pieces import Piece, run

    found = run(Piece.of(job["piece"]), job["threads"])
    return [base64.b64encode(one).decode() for one in found]


def main() -> None:
    """Answers jobs until there are no more."""
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    for line in sys.stdin:
        told: dict[str, Any]
        try:
            told = {"found": answer(json.loads(line))}
        except QedgeError as error:
            known = next(kind for kind in type(error).__mro__ if hasattr(errors, kind.__name__))
            told = {"error": known.__name__, "message": str(error)}
        except MemoryError:
            told = {"error": "BudgetError", "message": "a worker has no memory left"}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    try:
        main()
    except (KeyboardInterrupt, BrokenPipeError):
        os._exit(2)  # whoever asked has gone, or ends us
