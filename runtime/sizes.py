"""Sizes as people write them: K, M and G are powers of 1024."""

from __future__ import annotations

from qedge.runtime.errors import UsageError

_SIZE = r"\s*([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([KMGkmg]?)(?:[iI]?[bB])?\s*"
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str | int) -> int:
    """`"300M"`, `"1.5G"`, `4096` to bytes. UsageError for anything else."""
    if isinstance(text, int) and not isinstance(text, bool) and text > 0:
        return text
    import re  # only here: a start without a limit need not pay for it
    from fractions import Fraction

    match = re.fullmatch(_SIZE, str(text))
    size = int(Fraction(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise UsageError(
            f"{text!r} is not a size; write bytes, or a number with K, M or G, as 300M"
        )
    return size


def show_size(count: int) -> str:
    """`412,672 B` for small counts, `98.3 MiB` for large ones."""
    if count < 1 << 20:
        return f"{count:,} B"
    if count < 1 << 30:
        return f"{count / (1 << 20):.1f} MiB"
    return f"{count / (1 << 30):.2f} GiB"
