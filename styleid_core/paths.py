"""How a model mixes noise into a latent: what a clean latent is multiplied by, and which sigma stands for how much noise."""

from typing import NamedTuple

from torch import Tensor


def vp_scale(sigma: Tensor, sigma_data: float = 1.0) -> Tensor:
    """sqrt(1 + (sigma / sigma_data)^2), the factor from z (variance preserving) to x (variance exploding)."""
    return (1 + (sigma / sigma_data) ** 2) ** 0.5


class Diffusion(NamedTuple):
    """x = z + sigma * noise, for data z of deviation `sigma_data`: 1 in DDPM, 0.5 in EDM (Karras et al., arXiv 2206.00364)."""
    sigma_data: float = 1.0

    def carried(self, x: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """x at sigma `start` as it is at sigma `end` if the variance-preserving latent does not change."""
        return x * (vp_scale(end, self.sigma_data) / vp_scale(start, self.sigma_data))

    def sigma(self, noise: float) -> float:
        """The sigma at which the noise has `noise` times the deviation of the data."""
        return noise * self.sigma_data
