"""What each type costs each matrix of a model: nats a token of KL divergence, estimated for all
of them by one backward pass, and set right by measuring groups of matrices.

    estimate   half of sum_i F_i E[(e_i x)^2]: F from learn.fisher, the rounding's error e by
               the quantizer itself, the second moment of x from make.calibrate
    measure    a group (one sort of matrix in a third of the layers) rounded to MIDDLE, all else
               in float32: KL divergence over samples that the estimate has not seen. Its ratio
               to the group's estimate corrects the estimates of all its types

Everything is kept in the cache as it is made, and depends on the model and the quantizers alone
(and, in its last digits, on the order in which numpy's BLAS adds up).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from qedge.runtime.errors import BudgetError
from qedge.runtime.machine import available_bytes, cpus
from qedge.runtime.sizes import show_size
from qedge.toolkit.files import cache_folder, private_folder
from qedge.toolkit.kept import keep, kept
from qedge.toolkit.learn.fisher import Fisher, fisher
from qedge.toolkit.learn.graph import EMBEDDING, Floats, Graph, Ints, softmax, weights_of
from qedge.toolkit.make.calibrate import Calibration, calibrated
from qedge.toolkit.make.write import plain_image
from qedge.toolkit.quality.digest import made_by
from qedge.toolkit.quality.formats import Images
from qedge.toolkit.quality.samples import samples
from qedge.toolkit.quant import search
from qedge.toolkit.quant.recipe import matrices_of
from qedge.toolkit.quant.spread import Spread, mean_squares
from qedge.toolkit.source.model import SourceModel, SourceTensor

KINDS = ("a2", "a3", "a4", "a5", "a6", "q8_0")  # the candidates
MIDDLE = "a4"
LENGTH = 512  # tokens of a sample
FOR_SLOPES, FOR_GROUPS = 16, 4  # samples
THIRDS = 3
_FORM = "sensitivity 1"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """losses: nats a token of each matrix in each of KINDS, by name; ratios: measured to
    estimated, of each group (its name, "attn_v 1 of 3")."""

    losses: Mapping[str, Mapping[str, float]]
    ratios: Mapping[str, float]


def sensitivity(
    model: Path,
    source: SourceModel,
    *,
    tokenizer: Path | None = None,
    progress: Progress | None = None,
    cache: Path | None = None,
) -> Sensitivity:
    """Of a model's matrices. BudgetError where this machine's memory is too small for it."""
    tell = progress or (lambda step, done, of: None)
    check_memory(source)
    work = _Work(model, source, tokenizer, tell, cache)
    estimates = work.estimates()
    ratios = work.ratios(estimates)
    losses = {
        name: {kind: loss * ratios[group_of(source, name)] for kind, loss in of.items()}
        for name, of in estimates.items()
    }
    return Sensitivity(losses, ratios)


def check_memory(source: SourceModel) -> None:
    """BudgetError unless its weights in float32, and a pass, fit into the RAM that is free."""
    config, free = source.config, available_bytes()
    weights = 4 * sum(tensor.rows * tensor.columns for tensor in source.tensors.values())
    held = 4 * LENGTH * (config.layers * (6 * config.dim + 3 * config.ffn))
    need = weights + held + 4 * 4 * LENGTH * config.vocab_size + (200 << 20)
    if free is not None and need > free:
        raise BudgetError(
            f"{config.name}: its gradients take {show_size(need)} of memory, "
            f"{show_size(free)} are free; do it on a larger machine and take its --recipe here"
        )


def group_of(source: SourceModel, name: str) -> str:
    """The group of a matrix: its sort, and which third of the layers."""
    parts = name.split(".")
    if parts[0] != "blk":
        return parts[0]
    third = int(parts[1]) * THIRDS // source.config.layers
    return f"{parts[2]} {third + 1} of {THIRDS}"


def restored(
    tensor: SourceTensor, kind: str, calibration: Calibration, pool: ThreadPoolExecutor
) -> Floats:
    """A matrix as its image will have it."""
    importance, correlations = calibration.of(tensor.name)
    spread = None
    if importance is not None and correlations is not None and search.can_spread(kind):
        spread = Spread.of(importance, correlations)

    def part(start: int, stop: int) -> Floats:
        values = tensor.read(start, stop)
        stored = search.quantize_rows(values, kind, importance, spread)
        return search.dequantize_rows(stored, kind, tensor.columns)

    step = max(32, -(-tensor.rows // (4 * cpus()) // 32) * 32)
    jobs = [
        pool.submit(part, at, min(at + step, tensor.rows)) for at in range(0, tensor.rows, step)
    ]
    return np.concatenate([job.result() for job in jobs])


class _Work:
    def __init__(
        self,
        model: Path,
        source: SourceModel,
        tokenizer: Path | None,
        tell: Progress,
        cache: Path | None,
    ) -> None:
        self._source, self._tell = source, tell
        self._images = Images(
            model, cache_folder(cache) / "compare" / "images", tokenizer, tell
        )
        key = hashlib.sha256(f"{_FORM} {made_by()} {self._images.digest}".encode())
        self._folder = private_folder(
            cache_folder(cache) / "sensitivity" / key.hexdigest()[:32]
        )
        self._matrices = matrices_of(source)
        self._length = min(LENGTH, source.config.longest)
        self._weights: dict[str, Floats] | None = None
        self._graph = Graph(source.config, self._length)
        self._calibration: Calibration | None = None

    def estimates(self) -> dict[str, dict[str, float]]:
        """Of every matrix in every kind."""
        found: dict[str, dict[str, float]] = {}
        slopes: Fisher | None = None
        with ThreadPoolExecutor(cpus()) as pool:
            for number, (name, tensor) in enumerate(self._matrices.items()):
                path = self._path(f"estimate {name}")
                if (data := kept(path)) is None:
                    slopes = slopes or self._slopes()
                    calibration = self.calibration()
                    self._tell("estimate losses", number, len(self._matrices))
                    of = {
                        kind: self._estimate(tensor, kind, slopes, calibration, pool)
                        for kind in KINDS
                    }
                    data = json.dumps(of).encode()
                    keep(path, data)
                found[name] = json.loads(data)
        self._tell("estimate losses", len(found), len(found))
        return found

    def ratios(self, estimates: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """Of every group, measured to estimated."""
        groups: dict[str, list[str]] = {}
        for name in self._matrices:
            groups.setdefault(group_of(self._source, name), []).append(name)
        found: dict[str, float] = {}
        measure: _Measure | None = None
        for number, (group, names) in enumerate(groups.items()):
            path = self._path(f"group {group}")
            if (data := kept(path)) is None:
                measure = measure or self._measure()
                self._tell("measure groups", number, len(groups))
                data = json.dumps(measure.group(names)).encode()
                keep(path, data)
            estimated = sum(estimates[name][MIDDLE] for name in names)
            measured = json.loads(data)
            found[group] = measured / estimated if estimated > 0 and measured > 0 else 1.0
        self._tell("measure groups", len(groups), len(groups))
        return found

    def calibration(self) -> Calibration:
        if self._calibration is None:
            make = partial(plain_image, self._source)
            self._calibration = calibrated(self._source.sha256(), make, None, self._tell)
        return self._calibration

    def _path(self, what: str) -> Path:
        return self._folder / f"{hashlib.sha256(what.encode()).hexdigest()[:32]}.json"

    def _all_weights(self) -> dict[str, Floats]:
        if self._weights is None:
            self._weights = weights_of(self._source)
        return self._weights

    def _samples(self, count: int) -> Ints:
        ref = self._images.here("q8_0", self._length)
        return samples(
            Path(ref.path),
            ref.id,
            self._length,
            count,
            private_folder(self._folder / "samples"),
            partial(self._images.ready, "q8_0", self._length),
            partial(self._tell, "write samples"),
        )

    def _slopes(self) -> Fisher:
        path = self._folder / "fisher.npz"
        if (data := kept(path)) is None:
            tokens = self._samples(FOR_SLOPES)
            told = partial(self._tell, "gradients")
            found = fisher(self._graph, self._all_weights(), tokens, told)
            keep(path, found.pack())
            return found
        return Fisher.unpack(data)

    def _estimate(
        self,
        tensor: SourceTensor,
        kind: str,
        slopes: Fisher,
        calibration: Calibration,
        pool: ThreadPoolExecutor,
    ) -> float:
        errors = restored(tensor, kind, calibration, pool)
        errors -= tensor.read(0, tensor.rows)
        loss = 0.0
        if tensor.name in slopes.rows:
            means = mean_squares(errors, *calibration.of(tensor.name))
            loss += 0.5 * float(slopes.rows[tensor.name] @ means.astype(np.float64))
        if tensor.name == EMBEDDING:
            looked_up = (errors * errors) @ slopes.stream.astype(np.float32)
            loss += 0.5 * float(slopes.frequency @ looked_up.astype(np.float64))
        return loss

    def _measure(self) -> _Measure:
        tokens = self._samples(FOR_SLOPES + FOR_GROUPS)[FOR_SLOPES:]
        return _Measure(
            self._graph, self._all_weights(), self._matrices, self.calibration(), tokens
        )


class _Measure:
    """KL divergence of a graph with some of its matrices rounded, from the one with none."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Floats],
        matrices: Mapping[str, SourceTensor],
        calibration: Calibration,
        tokens: Ints,
    ) -> None:
        self._graph, self._weights, self._matrices = graph, weights, matrices
        self._calibration, self._tokens = calibration, tokens
        self._starts: list[list[Floats]] = []  # of each text, the stream before each third
        self._shares: list[Floats] = []
        for text in tokens:
            x, starts = self._through(weights, text, weights[EMBEDDING][text], 0)
            self._starts.append(starts)
            self._shares.append(softmax(graph.head(weights, x)))

    def group(self, names: Sequence[str]) -> float:
        """With these rounded to MIDDLE."""
        changed = dict(self._weights)
        with ThreadPoolExecutor(cpus()) as pool:
            for name in names:
                changed[name] = restored(self._matrices[name], MIDDLE, self._calibration, pool)
        first = min(map(self._third, names))
        found = []
        for text, starts, shares in zip(self._tokens, self._starts, self._shares):
            embedded = EMBEDDING in names
            x = changed[EMBEDDING][text] if embedded else starts[first]
            x, _ = self._through(changed, text, x, self._layer(first))
            found.append(divergence(shares, self._graph.head(changed, x)))
        return float(np.mean(found))

    def _third(self, name: str) -> int:
        """The third of the layers in which a matrix's changes begin."""
        parts = name.split(".")
        if parts[0] == "blk":
            return int(parts[1]) * THIRDS // self._graph.config.layers
        return 0 if name == EMBEDDING else THIRDS - 1

    def _layer(self, third: int) -> int:
        """The first layer of a third."""
        return -(-third * self._graph.config.layers // THIRDS)

    def _through(
        self, weights: Mapping[str, Floats], text: Ints, x: Floats, first: int
    ) -> tuple[Floats, list[Floats]]:
        layers = self._graph.config.layers
        begins = {self._layer(third) for third in range(THIRDS)}
        starts = []
        for number in range(first, layers):
            if number in begins:
                starts += [x] * sum(self._layer(third) == number for third in range(THIRDS))
            x, _ = self._graph.layer(weights, number, x, (1, len(text)))
        starts += [x] * (THIRDS - len(starts))
        return x, starts


def divergence(shares: Floats, logits: Floats) -> float:
    """Mean KL divergence, nats a token, of logits (written over) from probabilities."""
    logits -= logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    with np.errstate(divide="ignore"):
        own = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    return float(np.einsum("ij,ij->i", shares, own - logits).mean())
