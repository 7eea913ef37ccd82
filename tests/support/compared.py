"""What the tests of `compare` have in common: a model, a text, formats, a board. The model's
comparison is a fixture of tests/unit/conftest.py."""

from __future__ import annotations

from support.tiny_models import TinyConfig

from qedge.toolkit.board import load
from qedge.toolkit.quality.compare import Comparison
from qedge.toolkit.quality.statistics import Divergence

CONFIG = TinyConfig(layers=1, context=64)
TEXT = b"the rain in the street is a thing that one can hear at night " * 60
PI5 = load("pi5")
QUANTS = ["f16", "q8_0", "q4_0"]  # beside f32, which is the file's own


def qualities(found: Comparison) -> list[Divergence]:
    return [row.quality for row in found.formats]
