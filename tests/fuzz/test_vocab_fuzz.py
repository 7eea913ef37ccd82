"""Mutated tokenizer sections of every sort in the engine, under ASan and UBSan.

By hand, with fresh seeds: python tests/fuzz/test_vocab_fuzz.py 100000
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FLAGS = [
    *(ROOT / "runtime" / "engine" / "FLAGS").read_text("utf-8").split(),
    *("-D_DEFAULT_SOURCE", "-DQE_PORTABLE_ONLY", "-O1", "-g", "-Wall", "-Wextra"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]
CASES = 4000  # of each section, in the suite
# seeds of random tokenizers: characters, bytes, normal forms, tokens that strip
SEEDS = (1, 3, 5, 7, 8, 12)


def sections(folder: Path) -> list[Path]:
    from support.random_tokenizers import make_tokenizer
    from unit.test_tokenizer import bpe_metadata, spm_metadata
    from unit.test_tokenizer_model import train

    from qedge.runtime.errors import ImageError
    from qedge.toolkit.make.vocabulary_table import pack
    from qedge.toolkit.source.vocabulary.gguf import from_gguf
    from qedge.toolkit.source.vocabulary.hf import from_hf

    many = bpe_metadata("tekken")
    texts = [b"<" + b"ab"[number % 2 :] * (number % 9) + b"%d" % number for number in range(60)]
    many["tokenizer.ggml.tokens"] += texts
    many["tokenizer.ggml.token_type"] += [3 + number % 2 for number in range(60)]
    found = {"many": from_gguf(many), "spm": from_gguf(spm_metadata())}
    words = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}
    for form in ("NFC", "NFKC"):
        model = make_tokenizer(SEEDS[0]) | {"normalizer": {"type": form}}
        model |= {"pre_tokenizer": words, "added_tokens": []}
        (folder / "tokenizer.json").write_text(json.dumps(model))
        found[form] = from_hf(folder)
    for seed in SEEDS:
        (folder / "tokenizer.json").write_text(json.dumps(make_tokenizer(seed)))
        try:
            found[f"random-{seed}"] = from_hf(folder)
        except ImageError:
            continue
    (folder / "tokenizer.json").unlink()
    symbols = ["<x>", "ri"]
    model = train(1, byte_fallback=True, user_defined_symbols=symbols)
    (folder / "tokenizer.model").write_bytes(model)
    found["sentencepiece"] = from_hf(folder)
    paths = []
    for name, vocabulary in found.items():
        paths.append(folder / name)
        paths[-1].write_bytes(pack(vocabulary))
    return paths


def make_fuzzer(folder: Path) -> Path:
    sources = [
        ROOT / "tests/fuzz/vocab_fuzz.c",
        *sorted((ROOT / "runtime/engine").rglob("*.c")),
    ]
    command = ["gcc", *FLAGS, f"-I{ROOT / 'runtime'}", *map(str, sources)]
    subprocess.run([*command, "-o", str(folder / "vocab_fuzz")], check=True)
    return folder / "vocab_fuzz"


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fuzzer(tmp_path_factory.mktemp("fuzzer"))


def run(fuzzer: Path, section: Path, first: int, count: int) -> dict[str, int]:
    command = [str(fuzzer), str(section), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{section}, seeds from {first}:\n{done.stderr[-6000:]}"
    return json.loads(done.stdout)


def test_no_mutation_of_a_tokenizer_breaks_the_engine(fuzzer: Path, tmp_path: Path) -> None:
    for section in sections(tmp_path):
        found = run(fuzzer, section, 1, CASES)
        assert found["opened"] > CASES / 4 and found["encoded"] > CASES / 4, section.name


def test_what_broke_it_once_does_not_again(fuzzer: Path, tmp_path: Path) -> None:
    """A special token that the text claims and no list finds was put out as an id."""
    (many,) = [section for section in sections(tmp_path) if section.name == "many"]
    assert run(fuzzer, many, 8208642234, 1)["opened"] == 1


def main(count: int) -> None:
    import tempfile

    sys.path.insert(0, str(ROOT / "tests"))
    first = secrets.randbits(40)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = make_fuzzer(Path(folder))
        for section in (paths := sections(Path(folder))):
            share = count // len(paths)
            print(f"{section.name}, {share} seeds from {first}:", end=" ", flush=True)
            print(run(fuzzer, section, first, share), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10000)
