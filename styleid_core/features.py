"""The self-attention inputs captured while an image was inverted, and how a sampling step finds its own."""

import math
from typing import NamedTuple

from torch import Tensor

from .blocks import Block
from .storage import Int8


class Features(NamedTuple):
    """Inputs n of self-attention (LayerNorm outputs), one per inversion step and block.

    sigmas  S floats            the sigma the model was evaluated at on each step
    blocks  K blocks            which self-attentions were captured; none when nothing was asked for
    steps   S lists of K        steps[i][k]: (batch, tokens, channels) of blocks[k] at sigmas[i], as `storage.store` keeps it
    latent  (batch, C, H, W)    what was inverted

    Lists and tuples all through, because ComfyUI's memory-pressure cache counts tensors only inside those.
    """
    sigmas: list[float]
    blocks: list[Block]
    steps: list[list[Tensor | Int8]]
    latent: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return tuple(self.latent.shape[-2:])

    @property
    def batch(self) -> int:
        return self.steps[0][0].shape[0]


def nearest_step(features: Features, sigma: float) -> int:
    """Index of the captured step whose sigma is nearest on a log scale.

    Raises ValueError when it is more than 1.5 times further than that step is from its own neighbours: below or above
    what was captured.
    """
    captured = [math.log(s) for s in features.sigmas]
    target = math.log(sigma)
    step = min(range(len(captured)), key=lambda i: abs(captured[i] - target))
    spacing = max((abs(captured[step] - captured[i]) for i in (step - 1, step + 1) if 0 <= i < len(captured)), default=0.0)
    if abs(captured[step] - target) > max(1.5 * spacing, 1e-3):
        raise ValueError(f"No features were captured near sigma {sigma:.4g}: the inversion covered "
                         f"{min(features.sigmas):.4g} to {max(features.sigmas):.4g} in {len(captured)} steps. "
                         "Sample with the SIGMAS output of DDIMInvert, or use the same steps and scheduler for both.")
    return step


def features_at(features: Features, sigma: float) -> dict[Block, Tensor | Int8]:
    """{block: n (batch, tokens, channels), as it is kept} of the step nearest to sigma; ValueError as `nearest_step`."""
    return dict(zip(features.blocks, features.steps[nearest_step(features, sigma)]))


def repeat_batch(n: Tensor, batch: int) -> Tensor:
    """n (b, tokens, channels) repeated to (batch, tokens, channels); a view when b is 1 or batch.

    A sampler's batch holds whole copies of the latent batch, one for each conditioning.
    """
    if n.shape[0] == 1:
        return n.expand(batch, -1, -1)
    return n if n.shape[0] == batch else n.repeat(batch // n.shape[0], 1, 1)
