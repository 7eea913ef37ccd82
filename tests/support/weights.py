"""Weights to quantize that are the same float32 on every machine."""

import numpy as np


def normal(rows, columns, seed, scale=0.05):
    """(rows, columns), about normal: sums of hashed counters, standard deviation 0.58 scale."""
    n = np.arange(rows * columns * 4, dtype=np.uint64) + np.uint64(seed * 1000003)
    n = n * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)
    n ^= n >> np.uint64(29)
    n *= np.uint64(0xBF58476D1CE4E5B9)
    n ^= n >> np.uint64(32)
    uniform = (n >> np.uint64(40)).astype(np.float64) / 2**24 - 0.5
    return (uniform.reshape(rows, columns, 4).sum(-1) * scale).astype(np.float32)
