"""The formats of a model compared by several: the same figures whoever works, and what a worker
or a cluster that fails costs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.compared import PI5, QUANTS, TEXT, qualities

from qedge.runtime import ImageError, QedgeError, ToolError, UsageError
from qedge.toolkit.board import load
from qedge.toolkit.make.build import build
from qedge.toolkit.quality import compare as comparing
from qedge.toolkit.quality import pieces, pool
from qedge.toolkit.quality.compare import Comparison, Way, compare

Call = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def work(compared_model: Path, tmp_path: Path) -> list[pieces.Piece]:
    refs = []
    for quant in ("f32", "q4_0"):
        built = build(
            compared_model, load("host"), tmp_path / f"{quant}.qimg", quant=quant, context=64
        )
        refs.append(pieces.Ref(str(built.image), built.image_id))
    tokens = [tuple((n * 7 + k) % 300 for k in range(32)) for n in range(6)]
    return [pieces.Piece(refs[0], (refs[1],), (chunk,)) for chunk in tokens]


def test_whoever_works_the_figures_are_the_same_bit_for_bit(
    compared: Comparison, compared_model: Path, tmp_path: Path
) -> None:
    several = compare(
        compared_model, PI5, quant=QUANTS, text=TEXT, way=Way(workers=2), cache=tmp_path
    )
    assert qualities(several) == qualities(compared)


def test_formats_one_at_a_time_or_together_are_the_same(
    compared: Comparison, compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "in_memory", lambda: 1)
    assert qualities(
        compare(compared_model, PI5, quant=QUANTS, text=TEXT, cache=tmp_path)
    ) == qualities(compared)


def test_sets_of_formats_fit_into_memory(work: list[pieces.Piece]) -> None:
    base, other = work[0].base, work[0].others[0]
    size = Path(other.path).stat().st_size
    room = Path(base.path).stat().st_size + 2 * size
    assert [len(one) for one in pieces.sets_of([other] * 5, base, room)] == [2, 2, 1]
    assert [len(one) for one in pieces.sets_of([other] * 3, base, 0)] == [1, 1, 1]
    assert [len(one) for one in pieces.sets_of([other] * 3, base, None)] == [3]


def test_a_worker_that_is_killed_costs_its_piece_alone(work: list[pieces.Piece]) -> None:
    wanted = dict(pool.here(work))
    crew = pool._Crew(work, 2)
    try:
        while (victim := crew.workers[0]) is None:
            pass
        victim.process.kill()
        got = [crew.done.get(timeout=60) for _ in work]
        assert crew.workers[0] is not victim
    finally:
        crew.close()
    assert {number: found for number, found in got} == wanted  # noqa: C416


def test_workers_that_always_die_end_in_words(
    work: list[pieces.Piece], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import os; os._exit(9)"]
    whole = subprocess.Popen

    monkeypatch.setattr(pool.subprocess, "Popen", lambda _, **to: whole(command, **to))
    with pytest.raises(ToolError, match="3 workers died"):
        list(pool.by_processes(work, 2))
    with pytest.raises(ToolError, match="ended early"):
        pool.asked({"bench": "x"})


def test_what_a_worker_refuses_is_said(work: list[pieces.Piece]) -> None:
    gone = replace(work[0], base=pieces.Ref("/nowhere.qimg", "0"))
    with pytest.raises(ImageError, match="nowhere"):
        list(pool.by_processes([gone], 2))
    other = replace(work[0], base=replace(work[0].base, id="0" * 64))
    with pytest.raises(UsageError, match="another image"):
        list(pool.by_processes([other], 2))


def test_a_worker_of_another_version_is_refused(work: list[pieces.Piece]) -> None:
    told = work[0].fields()
    assert pieces.Piece.of(json.loads(json.dumps(told))) == work[0]
    with pytest.raises(UsageError, match="one version everywhere"):
        pieces.Piece.of({**told, "version": "0.0.0"})


def test_an_interruption_ends_the_workers(
    compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[pool.Worker] = []
    begin = pool.Worker.__init__

    def begun(self: pool.Worker) -> None:
        begin(self)
        made.append(self)

    def interrupt(step: str, count: int, of: int) -> None:
        if step == "evaluate" and count == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(pool.Worker, "__init__", begun)
    with pytest.raises(KeyboardInterrupt):
        compare(
            compared_model,
            PI5,
            quant=QUANTS,
            text=TEXT,
            way=Way(workers=2),
            cache=tmp_path,
            progress=interrupt,
        )
    assert len(made) == 2 and all(one.process.poll() is not None for one in made)


def test_a_dask_cluster_gives_the_same_and_gets_images_that_it_does_not_see(
    compared: Comparison, compared_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    from qedge.toolkit.quality import cluster

    monkeypatch.setenv("QEDGE_CACHE", str(tmp_path / "theirs"))  # the workers' own
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as there:
        options: dict[str, Any] = {
            "quant": QUANTS,
            "text": TEXT,
            "way": Way(dask=there.scheduler_address),
        }
        assert qualities(
            compare(compared_model, PI5, cache=tmp_path / "a", **options)
        ) == qualities(compared)
        assert not (tmp_path / "theirs" / "compare" / "sent").exists()
        whole = cluster.found_here

        def blind(ref: pieces.Ref, *rest: Any) -> Any:
            return whole(replace(ref, path="/nowhere"), *rest)

        monkeypatch.setattr(cluster, "found_here", blind)
        assert qualities(
            compare(compared_model, PI5, cache=tmp_path / "b", **options)
        ) == qualities(compared)
    assert len(list((tmp_path / "theirs" / "compare" / "sent").glob("*.qimg"))) == 1 + len(
        QUANTS
    )


def test_a_dask_worker_that_is_killed_costs_its_pieces_alone(work: list[pieces.Piece]) -> None:
    distributed = pytest.importorskip("distributed")
    from qedge.toolkit.quality import cluster

    wanted = dict(pool.here(work * 5))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as there:
        victim = next(iter(there.workers.values())).pid
        got = {}
        for number, found in cluster.by_cluster(work * 5, there.scheduler_address):
            if not got:
                os.kill(victim, signal.SIGKILL)
            got[number] = found
    assert got == wanted


def test_no_scheduler_is_said_in_words(compared_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    from qedge.toolkit.quality import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "_SECONDS", 1)
        with pytest.raises(QedgeError, match="no scheduler answers"):
            next(cluster.by_cluster([], "tcp://127.0.0.1:9"))
