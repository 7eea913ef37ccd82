"""Signatures at the edges of Ed25519, each with the name of its class. "fits" in a name: the
equation S B = R + h A holds without the cofactor, and nothing but an encoding can be wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from support.edwards import (
    BASE,
    NEUTRAL,
    ORDER,
    PRIME,
    Point,
    add,
    challenge,
    encode,
    encoded,
    negative,
    point,
    times,
    torsion,
)


class Case(NamedTuple):
    kind: str
    key: bytes
    message: bytes
    proof: bytes


SMALL = torsion()
# Encodings that RFC 8032 does not allow: y not below p, or a sign of x = 0.
OTHER_SMALL = [
    (encoded(PRIME, 0), point(0, 0)),
    (encoded(PRIME, 1), point(0, 1)),
    *((encoded(y, sign), NEUTRAL) for y, sign in ((PRIME + 1, 0), (PRIME + 1, 1), (1, 1))),
    (encoded(PRIME - 1, 1), point(-1, 0)),
]
LENGTHS = (0, 1, 31, 32, 47, 48, 63, 64, 65, 111, 112, 127, 128, 129, 191, 192, 255, 256, 900)
CHANCE = random.Random(8032)


def _number(n: int) -> bytes:
    return n.to_bytes(32, "little")


class Signer:
    """A key pair with multiples of the base point at hand, for it signs often."""

    def __init__(self) -> None:
        self.secret, self.nonce = CHANCE.randrange(ORDER), CHANCE.randrange(ORDER)
        self.public, self.once = times(self.secret, BASE), times(self.nonce, BASE)
        self.key = encode(self.public)

    def sign(
        self, message: bytes, shift: Point = NEUTRAL, key: bytes | None = None
    ) -> tuple[bytes, int, int]:
        """R, with `shift` added, S and h."""
        r = encode(add(self.once, shift))
        h = challenge(r, key or self.key, message)
        return r, (self.nonce + h * self.secret) % ORDER, h


def _valid() -> Iterator[Case]:
    for length in LENGTHS * 2:
        signer, message = Signer(), CHANCE.randbytes(length)
        r, s, _ = signer.sign(message)
        yield Case("valid", signer.key, message, r + _number(s))


def _small_keys() -> Iterator[Case]:
    """S = 0 leaves R = -h A: every encoding of a small order as the key, and as R."""
    known = [(encode(p), p) for p in SMALL]
    for key, a in known + OTHER_SMALL:
        for r, p in known + OTHER_SMALL:
            assert a and p
            message = CHANCE.randbytes(8)
            h = challenge(r, key, message)
            fits = encode(times(h % 8, a)) == encode(negative(p))
            wrong = "A" * (key != encode(a)) + "R" * (r != encode(p))
            where = f", encoding of {wrong}" if wrong else ""
            yield Case(f"small A and R{', fits' * fits}{where}", key, message, r + bytes(32))


def _small_key_full_r() -> Iterator[Case]:
    for key, a in [(encode(p), p) for p in SMALL] + OTHER_SMALL:
        assert a
        canonical = key == encode(a)
        signer, left = Signer(), [True, False]
        while left:  # S B = R + h A, R made for one h of eight
            message, shift = CHANCE.randbytes(12), CHANCE.choice(SMALL)
            r = encode(add(signer.once, shift))
            h = challenge(r, key, message)
            fits = encode(times(h % 8, a)) == encode(negative(shift))
            if fits in left:
                left.remove(fits)
                name = f"small A{', fits' * fits}{'' if canonical else ', encoding'}"
                yield Case(name, key, message, r + _number(signer.nonce))


def _small_r() -> Iterator[Case]:
    """S = h a leaves the neutral point as R, which has encodings that it must not have."""
    for r, p in [(encode(p), p) for p in SMALL] + OTHER_SMALL:
        assert p
        neutral = encode(p) == encode(NEUTRAL)
        for _ in range(2):
            signer, message = Signer(), CHANCE.randbytes(20)
            s = challenge(r, signer.key, message) * signer.secret % ORDER
            name = f"small R{', fits' * neutral}{'' if r == encode(p) else ', encoding'}"
            yield Case(name, signer.key, message, r + _number(s))


def _mixed() -> Iterator[Case]:
    """Torsion added to the key, to R, or to both so that it cancels."""
    for number in range(1, 8):
        signer = Signer()
        key = encode(add(signer.public, SMALL[number]))
        for fits in (True, False):
            for _ in range(4):
                while True:
                    message, to_r = CHANCE.randbytes(16), CHANCE.randrange(8)
                    r, s, h = signer.sign(message, SMALL[to_r], key)
                    if ((h * number + to_r) % 8 == 0) is fits:
                        break
                yield Case(f"mixed A{', fits' * fits}", key, message, r + _number(s))
        for _ in range(4):
            message = CHANCE.randbytes(16)
            r, s, _h = signer.sign(message, SMALL[number])
            yield Case("mixed R", signer.key, message, r + _number(s))


def _other_y() -> Iterator[Case]:
    """y of p + 2 and more, whose points nobody knows a secret of; and y without a point."""
    signer = Signer()
    for y in range(PRIME + 2, 2**255):
        for sign in (0, 1):
            r, s, _ = signer.sign(b"as a key")
            yield Case("y not below p", encoded(y, sign), b"as a key", r + _number(s))
            yield Case("y not below p", signer.key, b"as R", encoded(y, sign) + _number(s))
    y = 2
    for _ in range(8):
        while point(y, 0):
            y += 1
        r, s, _ = signer.sign(b"none")
        yield Case("no point", encoded(y, 0), b"none", r + _number(s))
        yield Case("no point", signer.key, b"none", encoded(y, 1) + _number(s))
        y += 1


def _large_s() -> Iterator[Case]:
    for _ in range(3):
        signer, message = Signer(), CHANCE.randbytes(30)
        r, s, _h = signer.sign(message)
        for n in range(1, 16):
            if s + n * ORDER < 2**256:
                yield Case("S + n L", signer.key, message, r + _number(s + n * ORDER))
        for bit in (253, 254, 255):
            yield Case("S with a high bit", signer.key, message, r + _number(s | 1 << bit))
        for other in (0, ORDER - 1, ORDER, ORDER + 1, 2**256 - 1):
            yield Case("S of another value", signer.key, message, r + _number(other))


def _flipped() -> Iterator[Case]:
    signer, message = Signer(), CHANCE.randbytes(32)
    r, s, _ = signer.sign(message)
    fields = {"key": signer.key, "message": message, "R": r, "S": _number(s)}
    for name, field in fields.items():
        for number in range(32):
            bit = number * 8 + number % 8
            wrong = int.from_bytes(field, "little") ^ 1 << bit
            found = {**fields, name: _number(wrong)}
            proof = found["R"] + found["S"]
            yield Case(f"a bit of {name}", found["key"], found["message"], proof)
    proof = r + _number(s)
    yield Case("message cut short", signer.key, message[:-1], proof)
    yield Case("message made longer", signer.key, message + b"\0", proof)


def cases() -> list[Case]:
    """The same ones every time."""
    CHANCE.seed(8032)
    makers = (_valid, _small_keys, _small_key_full_r, _small_r, _mixed, _other_y, _large_s)
    return [case for make in (*makers, _flipped) for case in make()]
