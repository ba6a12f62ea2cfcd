"""Computes rotary positions of style tokens, by the model's own embedder."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from ....styleid_core.positions import frequency_scales, turned

POSITIONS = "styleid_positions"  # among transformer_options
SHIFTS = {"diagonal": (1, 1), "beside": (0, 1), "same": (0, 0)}  # down and right, in pictures


class Positions(NamedTuple):
    """How the keys of styles are changed: moved by one of SHIFTS, and scaled from high to low frequencies."""
    place: str = "diagonal"
    high: float = 0.5
    low: float = 1.5


UNMOVED = Positions("same", 1.0, 1.0)


class Embedding(NamedTuple):
    """Rotary positions of a network.

    pairs   of channels that each axis has: the first, then down and right
    at      at(first, down, right): the rotation (all pairs, 2, 2) from the origin to there
    halves  as in `turned`
    """
    pairs: list[int]
    at: Callable[[int, int, int], Tensor]
    halves: bool = False


def axes_embedding(embedder: Module) -> Embedding:
    """Of ComfyUI's EmbedND."""
    def at(*position):
        ids = torch.zeros(1, 1, len(embedder.axes_dim))
        ids[..., :3] = torch.tensor(position)
        return embedder(ids)[0, 0, 0]

    return Embedding([channels // 2 for channels in embedder.axes_dim], at)


def video_embedding(embedder: Module) -> Embedding:
    """Of ComfyUI's VideoRopePosition3DEmb."""
    def at(first, down, right):
        return embedder.generate_embeddings((1, 1 + first, 1 + down, 1 + right, 0), device=torch.device("cpu"))[-1]

    frames, spatial = len(embedder.dim_temporal_range), len(embedder.dim_spatial_range)
    return Embedding([frames, spatial, spatial], at, halves=True)


def key_move(embedding: Embedding | None, positions: Positions | None, grid: tuple[int, int],
             device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """What moves and scales keys (batch, tokens, channels) of a style beside a picture of `grid` tokens, if any."""
    if embedding is None or positions in (None, UNMOVED):
        return None
    down, right = (shift * side for shift, side in zip(SHIFTS[positions.place], grid))
    scales = frequency_scales(embedding.pairs, positions.high, positions.low)
    matrices = embedding.at(0, down, right).cpu() * scales[:, None, None]
    return partial(turned, matrices=matrices.to(device), halves=embedding.halves)
