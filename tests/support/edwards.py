"""The curve of Ed25519 in plain integers (RFC 8032, 5.1), for tests: points that no library
makes, of small or mixed order and in encodings that are not the only one."""

from __future__ import annotations

import hashlib

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493  # of the base point
_D = -121665 * pow(121666, -1, PRIME) % PRIME
_ROOT = pow(2, (PRIME - 1) // 4, PRIME)  # of -1

Point = tuple[int, int, int, int]  # x and y as x / z and y / z; t = x * y / z
NEUTRAL: Point = (0, 1, 1, 0)


def add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % PRIME
    b = (p[1] + p[0]) * (q[1] + q[0]) % PRIME
    c = 2 * p[3] * q[3] * _D % PRIME
    d = 2 * p[2] * q[2] % PRIME
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % PRIME, g * h % PRIME, f * g % PRIME, e * h % PRIME


def times(n: int, p: Point) -> Point:
    found = NEUTRAL
    while n:
        if n & 1:
            found = add(found, p)
        p = add(p, p)
        n >>= 1
    return found


def negative(p: Point) -> Point:
    return -p[0] % PRIME, p[1], p[2], -p[3] % PRIME


def point(y: int, sign: int) -> Point | None:
    """The point with that y, and an odd x for sign 1; None when there is none. y may be any
    number: who wants the one encoding looks at it himself."""
    y %= PRIME
    square = (y * y - 1) * pow(_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * _ROOT % PRIME
    if x * x % PRIME != square:
        return None
    if x % 2 != sign and x:
        x = PRIME - x
    return x, y, 1, x * y % PRIME


def encoded(y: int, sign: int) -> bytes:
    """32 bytes, of a y that may be as large as they hold."""
    return (y | sign << 255).to_bytes(32, "little")


def encode(p: Point) -> bytes:
    """The one encoding."""
    scale = pow(p[2], -1, PRIME)
    x, y = p[0] * scale % PRIME, p[1] * scale % PRIME
    return encoded(y, x & 1)


BASE = point(4 * pow(5, -1, PRIME) % PRIME, 0) or NEUTRAL


def torsion() -> list[Point]:
    """The eight points of small order: multiples of one of order 8, in order, neutral first."""
    y = 2
    while True:
        found = point(y, 0)
        eighth = times(ORDER, found) if found else NEUTRAL
        if encode(times(4, eighth)) != encode(NEUTRAL):
            return [times(n, eighth) for n in range(8)]
        y += 1


def challenge(r: bytes, a: bytes, message: bytes) -> int:
    """h of RFC 8032, 5.1.7, modulo the order of the base point as everyone has it: of torsion
    that is another multiple than the whole number would be."""
    return int.from_bytes(hashlib.sha512(r + a + message).digest(), "little") % ORDER
