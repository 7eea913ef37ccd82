"""The firmware's Ed25519 and SHA-512 where implementations differ: never more lenient than
OpenSSL, stricter where it is said here."""

from __future__ import annotations

import hashlib
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from support.ed25519_cases import Case, cases
from support.toolchains import FLAGS, need

from qedge.toolkit.bare.firmware import folders

# What is accepted today, by class: how many of how many. Every class that is not here is
# refused whole. Neither checks for small order, and neither uses the cofactor.
ACCEPTED = {
    "valid": (38, 38),
    "small A and R, fits": (9, 9),
    "small A, fits": (8, 8),
    "small R, fits": (2, 2),
    "mixed A, fits": (28, 28),
}
# Where OpenSSL takes what the firmware refuses: a key whose encoding RFC 8032 does not allow.
STRICTER = {"small A and R, fits, encoding of A": 6, "small A, fits, encoding": 6}
COMPILERS = {
    "this machine": (("cc",), ()),
    # 32 bits, as every board is
    "32-bit Arm": (("arm-linux-gnueabihf-gcc", "-static", "-mthumb"), ("qemu-arm",)),
}


@pytest.fixture(scope="module")
def edges() -> list[Case]:
    return cases()


def answers(kind: str, check: str, lines: list[str], folder: Path) -> list[str]:
    """What a check of tests/bare prints, of the firmware's sources."""
    compiler, runner = COMPILERS[kind]
    if runner:
        need(compiler[0], "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross")
        need(runner[0], "qemu-user")
    engine, program = folders()[1] / "engine", folder / check
    sources = [Path(__file__).with_name(f"{check}.c"), engine / "sha512.c"]
    sources += [engine / "ed25519.c"] * (check == "ed25519_check")
    line = [*compiler, *FLAGS, "-D_DEFAULT_SOURCE", f"-I{engine}", *sources, "-o", program]
    subprocess.run(line, check=True)
    said = "\n".join(lines)
    command = [*runner, program]
    done = subprocess.run(command, input=said, capture_output=True, text=True, check=True)
    return done.stdout.split()


def openssl_takes(case: Case) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(case.key).verify(case.proof, case.message)
    except (InvalidSignature, ValueError):
        return False
    return True


@pytest.mark.parametrize("kind", COMPILERS)
def test_no_signature_is_taken_that_openssl_refuses(
    kind: str, edges: list[Case], tmp_path: Path
) -> None:
    lines = [f"{c.key.hex()} {c.message.hex() or '-'} {c.proof.hex()}" for c in edges]
    taken = [said == "1" for said in answers(kind, "ed25519_check", lines, tmp_path)]
    assert len(taken) == len(edges) > 650
    theirs = [openssl_takes(case) for case in edges]
    lenient = [c for c, ours, other in zip(edges, taken, theirs) if ours and not other]
    assert not lenient
    stricter = Counter(c.kind for c, ours, other in zip(edges, taken, theirs) if other > ours)
    assert stricter == STRICTER
    of, took = (
        Counter(c.kind for c in edges),
        Counter(c.kind for c, ok in zip(edges, taken) if ok),
    )
    assert {name: (count, of[name]) for name, count in took.items()} == ACCEPTED


def test_the_classes_have_what_their_names_say(edges: list[Case]) -> None:
    """Enough of each, so that none of them is empty by accident."""
    count = Counter(case.kind for case in edges)
    assert count.keys() >= ACCEPTED.keys() | STRICTER.keys()
    assert sum(count[name] for name in count if name.startswith("small A and R")) == 14 * 14
    assert count["mixed R"] == count["mixed A"] == 28
    assert count["y not below p"] == 17 * 2 * 2 and count["S + n L"] >= 3 * 14
    assert all(count[f"a bit of {field}"] == 32 for field in ("key", "message", "R", "S"))
    assert {len(case.message) for case in edges if case.kind == "valid"} >= {0, 128, 900}


@pytest.mark.parametrize("kind", COMPILERS)
def test_sha_512_of_every_length_in_parts_cut_anywhere(kind: str, tmp_path: Path) -> None:
    asked = [(0, 1_000_000, 0, 0), (0, 1_000_000, 999_983, 1)]
    for length in range(258):
        asked.append((7, length, 0, 0))
        for first in (1, 63, 111, 112, 127, 128, 129):
            if first <= length:
                asked += [(7, length, first, 0), (7, length, first, min(17, length - first))]
    lines = [" ".join(map(str, one)) for one in asked]
    found = answers(kind, "sha512_check", lines, tmp_path)
    wanted = []
    for step, length, _, _ in asked:
        message = (
            b"a" * length if step == 0 else bytes((97 + i * step) % 256 for i in range(length))
        )
        wanted.append(hashlib.sha512(message).hexdigest())
    assert found == wanted
    # FIPS 180: a million times "a"
    assert found[0].startswith("e718483d0ce769644e2e42c7bc15b4638e1f98b13b204428")
    assert found[0].endswith("4eadb217ad8cc09b")
