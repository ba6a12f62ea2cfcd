"""How a model mixes noise into a latent: what a clean latent is multiplied by, and which sigma stands for how much
noise.
"""

import math
from typing import NamedTuple

from torch import Tensor


def vp_scale(sigma: Tensor, sigma_data: float = 1.0) -> Tensor:
    """sqrt(1 + (sigma / sigma_data)^2), the factor from z (variance preserving) to x (variance exploding)."""
    return (1 + (sigma / sigma_data) ** 2) ** 0.5


class Diffusion(NamedTuple):
    """x = z + sigma * noise, for data z of deviation `sigma_data`: 1 in DDPM, 0.5 in EDM (arXiv 2206.00364)."""
    sigma_data: float = 1.0
    most: float = math.inf  # the highest sigma that can be sampled from

    def carried(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """x at sigma `start` as it is at sigma `end` if the variance-preserving latent does not change."""
        return x * (vp_scale(end, self.sigma_data) / vp_scale(start, self.sigma_data))

    def sigma(self, noise: float) -> float:
        """The sigma at which the noise has `noise` times the deviation of the data."""
        return noise * self.sigma_data


class Flow(NamedTuple):
    """x = (1 - sigma) * z + sigma * noise (Liu et al., arXiv 2209.03003); LATENTs that are not yet pictures hold x / (1
    - sigma), as ComfyUI's samplers leave and take them.
    """
    # The last sigma before pure noise, where that LATENT would be infinite.
    most: float = 1 - 2 ** -10

    def carried(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """x at sigma `start` as it is at sigma `end` if it does not change."""
        return x

    def sigma(self, noise: float) -> float:
        """The sigma at which the noise has `noise` times the deviation of the data, which is 1."""
        return noise / (1 + noise)


class ScaledFlow(NamedTuple):
    """The same flow multiplied by 1 + sigma, where sigma is the noise over the data: x = z + sigma * noise."""
    most: float = math.inf

    def carried(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """x at sigma `start` as it is at sigma `end` if the flow's does not change."""
        return x * ((1 + end) / (1 + start))

    def sigma(self, noise: float) -> float:
        """The sigma at which the noise has `noise` times the deviation of the data, which is 1."""
        return noise
