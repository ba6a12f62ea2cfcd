"""Masks over a picture, on the grids on which a model sees it."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def on_grid(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """mask (B, H, W) in 0..1 as its means over the cells of a grid of `size`: (B, h, w)."""
    return interpolate(mask[:, None].float(), size=size, mode="area")[:, 0]


def kept_tokens(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Indices of the tokens of a grid of `size` of which a mask (1, H, W) covers at least half, row by row."""
    return (on_grid(mask, size) >= 0.5).flatten().nonzero().flatten()


def is_whole(mask: Tensor) -> bool:
    """Whether a mask leaves out nothing."""
    return bool(torch.all(mask >= 1))
