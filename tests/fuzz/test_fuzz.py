"""Mutated images under ASan and UBSan: no damage, hashes renewed or not, may crash, hang or
make two kernel sets disagree.

The suite runs a fixed corpus. Fresh mutations, as many as wanted, with a seed that is printed;
`golden`: of the golden section only, which is quick:

    python tests/fuzz/test_fuzz.py 100000 [golden]
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = [
    *(ROOT / "runtime" / "engine" / "FLAGS").read_text("utf-8").split(),
    *("-D_DEFAULT_SOURCE", "-O1", "-g", "-Wall", "-Wextra"),
    *("-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"),
]
CASES = 900  # of each image, in the suite
GOLDEN_CASES = 1500  # of one image's golden section


@dataclass(frozen=True, slots=True)
class Recipe:
    """A tiny image: how its model and its tensors are made."""

    quant: str
    tokenizer: str
    tied: bool
    kv: str | None = None
    layers: int = 1
    dim: int = 32
    ffn: int = 64
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 8


RECIPES = {
    "q4_0-bpe": Recipe("q4_0", "bpe", tied=True),
    "q8_0-spm": Recipe("q8_0", "spm", tied=False, dim=64, head_size=32),
    "f16-bpe": Recipe("f16", "bpe", tied=False, layers=2, heads=2, kv_heads=1, head_size=20),
    "f32-spm": Recipe("f32", "spm", tied=True, kv="q8_0", ffn=43),
}


def make_image(folder: Path, recipe: Recipe) -> Path:
    from support.tiny_models import TinyConfig, make_weights, write_gguf

    from qedge.toolkit.board import load
    from qedge.toolkit.make.build import build

    shape = {key: getattr(recipe, key) for key in TinyConfig.__slots__ if hasattr(recipe, key)}
    config = TinyConfig(**shape, vocab_size=296, context=32)
    model = write_gguf(
        folder / "tiny.gguf", config, make_weights(3, config), tokenizer=recipe.tokenizer
    )
    board = replace(load("x86-64"), alignment_bytes=64, leaf_bytes=1024, threads=2)
    return build(model, board, folder / "tiny.qimg", quant=recipe.quant, kv=recipe.kv).image


def make_fuzzer(folder: Path) -> Path:
    sources = [
        *sorted((ROOT / "tests/fuzz").glob("image_*.c")),
        *sorted((ROOT / "runtime/engine").rglob("*.c")),
        ROOT / "runtime/host/image_file.c",
        ROOT / "runtime/host/machine.c",
    ]
    command = ["gcc", *FLAGS, f"-I{ROOT / 'runtime'}", *map(str, sources)]
    subprocess.run([*command, "-o", str(folder / "image_fuzz")], check=True)
    return folder / "image_fuzz"


def run(fuzzer: Path, image: Path, first: int, count: int, *only: str) -> dict[str, int]:
    command = [str(fuzzer), str(image), str(first), str(count), *only]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{image}, seeds from {first}:\n{done.stderr[-6000:]}"
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fuzzer(tmp_path_factory.mktemp("fuzzer"))


@pytest.mark.parametrize("name", RECIPES)
def test_no_mutation_of_an_image_breaks_the_engine(
    fuzzer: Path, tmp_path: Path, name: str
) -> None:
    found = run(fuzzer, make_image(tmp_path, RECIPES[name]), 1, CASES)
    assert found["opened"] > CASES / 4  # the damage got behind the checks
    assert found["compared"] > CASES / 10
    assert found["golden"] + found["golden_refused"] == found["opened"]


def test_no_mutation_of_a_golden_section_leads_outside_of_it(
    fuzzer: Path, tmp_path: Path
) -> None:
    image = make_image(tmp_path, RECIPES["q4_0-bpe"])
    found = run(fuzzer, image, 1, GOLDEN_CASES, "golden")
    assert found["golden"] > GOLDEN_CASES / 10 < found["golden_refused"]


def main(count: int, *only: str) -> None:
    import tempfile

    sys.path.insert(0, str(ROOT / "tests"))
    first = secrets.randbits(40)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = make_fuzzer(Path(folder))
        for number, (name, recipe) in enumerate(RECIPES.items()):
            place = Path(folder, name)
            place.mkdir()
            share = count * (number + 1) // len(RECIPES) - count * number // len(RECIPES)
            print(f"{name}, {share} seeds from {first}:", end=" ", flush=True)
            print(run(fuzzer, make_image(place, recipe), first, share, *only), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10000, *sys.argv[2:])
