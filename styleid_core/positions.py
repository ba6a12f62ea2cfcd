"""Rotary positions (Su et al. 2021, "RoFormer") of queries and keys that have been rotated: they are moved by one more
rotation.
"""

import torch
from torch import Tensor


def turned(x: Tensor, matrices: Tensor, halves: bool) -> Tensor:
    """x (..., heads * channels), each pair of channels of each head multiplied by its one of `matrices` (channels / 2,
    2, 2).

    A pair is of neighboring channels, or with `halves` of one in each half of the head.
    """
    pairs = len(matrices)
    form, shape = ("...jp,pij->...ip", (-1, 2, pairs)) if halves else ("...pj,pij->...pi", (-1, pairs, 2))
    return torch.einsum(form, x.unflatten(-1, shape).to(matrices), matrices).flatten(-3).to(x)


def frequency_scales(pairs: list[int], high: float, low: float) -> Tensor:
    """(sum of pairs,) factors, from `high` at the highest frequency of each of an image's two axes, the second and
    third, to `low` at its lowest; 1 on other axes.

    On keys of another picture, less of the high frequencies makes a query look less at its own place, and more of the
    low ones more at what is alike ("Untwisting RoPE", arXiv 2602.05013).
    """
    return torch.cat([torch.linspace(high, low, count) if axis in (1, 2) else torch.ones(count)
                      for axis, count in enumerate(pairs)])
