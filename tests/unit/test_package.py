"""`import qedge` gives what people ask of it, and costs nothing until they do."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

import qedge
import qedge.runtime


def test_qedge_has_the_model_the_errors_and_a_version() -> None:
    assert qedge.__version__ == version("qedge")
    for name in qedge.runtime.__all__:
        assert getattr(qedge, name) is getattr(qedge.runtime, name)
    assert set(qedge.__all__) == {*qedge.runtime.__all__, "Board", "__version__"}
    assert set(qedge.__all__) <= set(dir(qedge)) and qedge.Board.connect


def test_a_wrong_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="qedge has no Modell; it has .*Model"):
        qedge.Modell  # noqa: B018


def test_import_of_qedge_loads_nothing_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import qedge\n"
        "assert {m for m in set(sys.modules) - before if 'editable' not in m} == {'qedge'}\n"
        "import qedge.toolkit; assert 'qedge.runtime' not in sys.modules\n"
        "qedge.Model; assert 'qedge.runtime' in sys.modules\n"
        "assert 'importlib.metadata' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd="/")
