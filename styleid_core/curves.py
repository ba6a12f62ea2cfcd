"""Values that change over the sampling (Scheduled Style Injection: the shapes that its released code has)."""

import math
from bisect import bisect_left
from collections.abc import Callable

Curve = Callable[[float], float]  # of the progress of the sampling, 0 (pure noise) to 1 (the picture)

SHAPES: dict[str, Curve] = {
    "linear": lambda p: p,
    "quadratic": lambda p: p ** 2,
    "sqrt": math.sqrt,
    "cosine": lambda p: (1 - math.cos(math.pi * p)) / 2,
    "exponential": lambda p: (math.exp(p) - 1) / (math.e - 1),
}


def shaped(shape: str, start: float, end: float) -> Curve:
    """From `start` at 0 to `end` at 1 by one of SHAPES."""
    return lambda x: start + (end - start) * SHAPES[shape](min(max(x, 0.0), 1.0))


def progress(sigmas: list[float], sigma: float) -> float:
    """Where `sigma` lies among the N ascending `sigmas` of an inversion: i / (N - 1) at the i-th from the noisiest,
    between two of them along log sigma, and never outside of 0 to 1.
    """
    if len(sigmas) == 1:
        return 0.0
    upper = min(max(bisect_left(sigmas, sigma), 1), len(sigmas) - 1)
    low, high = (math.log(sigmas[i]) for i in (upper - 1, upper))
    index = upper - 1 + (math.log(sigma) - low) / (high - low)
    return min(max(1 - index / (len(sigmas) - 1), 0.0), 1.0)
