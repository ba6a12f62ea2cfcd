"""Where the inversion and the sampling evaluate the model, in sigma space."""

from typing import NamedTuple

import torch
from torch import Tensor

METHODS = ("ddim", "fireflow")


class Refine(NamedTuple):
    """How one step of an inversion asks the model again (ReNoise, arXiv 2403.14602): so many `rounds`, each at the
    estimate of the last. The step goes along the mean of the predictions `first` to `last` - 1 of the rounds + 1, or
    along the last if there are none of these.
    """
    rounds: int
    first: int
    last: int

    def mean(self, predictions: list[Tensor]) -> Tensor:
        chosen = predictions[self.first:self.last] or predictions[-1:]
        return sum(chosen) / len(chosen)


class Schedule(NamedTuple):
    """Sigmas of one inversion and the sampling that follows it.

    inversion  (N + 1,)  ascending: x goes from inversion[0], where the clean latent is put, to inversion[-1]
    evaluated  (N,)      the sigma the model is evaluated at on each inversion step: features are kept under these
    sampling   (M + 1,)  descending, for any sampler: starts from the inverted latent, ends at the clean one
    refine     N Refine  of each inversion step, or none
    method     one of METHODS: how the inversion gets from one sigma to the next
    """
    inversion: Tensor
    evaluated: Tensor
    sampling: Tensor
    refine: tuple[Refine, ...] = ()
    method: str = "ddim"


def official_schedule(sigmas: Tensor, steps: int) -> Schedule:
    """The grid of the StyleID authors' released code, from the model's table of discrete sigmas (T,), ascending.

    Timesteps are 1, 1 + T // steps, ... The clean latent counts as being at t = 1 and the last inversion step goes to
    T - 1; the sampling ends at t = 0, not at sigma 0. On a 50-step grid the authors skip the first sampling step.
    Where T is no multiple of `steps` the grid has more: 31 for 30 of 1000, and 999 from 501 on. Raises ValueError for
    `steps` outside 2 to T: with one, the noise of T - 1 would count as the picture at t = 1.
    """
    if not 2 <= steps <= len(sigmas):
        raise ValueError(f"The schedule official has 2 to {len(sigmas)} steps down from pure noise, and {steps} are "
                         "asked for (steps / denoise). Change steps or denoise, or take the schedule ddim.")
    t = range(1, len(sigmas), len(sigmas) // steps)
    grid = sigmas[list(t)]
    sampled = grid[:-1] if len(grid) == 50 else grid
    return Schedule(torch.cat([grid, sigmas[-1:]]), grid, torch.cat([sampled.flip(0), sigmas[:1]]))


def ddim_schedule(sampling: Tensor) -> Schedule:
    """Invert along exactly the sigmas (M + 1,) that will be sampled, descending to 0.

    Each step up to sigma evaluates the model at that sigma (DDIM inversion as in Mokady et al., arXiv 2211.09794):
    every sigma to be sampled has its features, and the picture comes back closer than with the sigma that the step
    leaves. On Gaussian data of deviation 0.8, whose denoiser is known, the error after 50 steps is 1.0 % instead of 6.2
    %.
    """
    inversion = sampling.flip(0)
    return Schedule(inversion, inversion[1:], sampling)


def refined(schedule: Schedule, rounds: int, quarter: float) -> Schedule:
    """With the rounds that ReNoise's code takes where it is asked for `rounds`; `quarter` is the sigma at a quarter of
    the noise schedule.

    Below that, at most five rounds and a mean over the first five predictions; above, the last prediction, or of nine
    rounds and more a mean of the ninth and tenth. ValueError unless each step is evaluated where it goes to.
    """
    if not rounds:
        return schedule
    if not torch.equal(schedule.evaluated, schedule.inversion[1:]):
        raise ValueError(f"refine {rounds} asks the model again where a step goes to, and the schedule official asks "
                         "it where a step begins. Take the schedule ddim, or set refine to 0.")
    low, high = Refine(min(rounds, 5), 0, 5), Refine(rounds, 8, 10)
    return schedule._replace(refine=tuple(low if sigma < quarter else high for sigma in schedule.evaluated.tolist()))


def by_method(schedule: Schedule, method: str) -> Schedule:
    """For one of METHODS; ValueError for one that does not go with a refined schedule."""
    if method == "ddim":
        return schedule
    if schedule.refine:
        raise ValueError(f"The setting refine belongs to the inversion ddim, and {method} is chosen. Set refine to 0, "
                         "or take ddim.")
    return schedule._replace(evaluated=(schedule.inversion[1:] + schedule.inversion[:-1]) / 2, method=method)


def check_falling(sampling: Tensor, name: str, steps: int):
    """ValueError unless the sigmas (M + 1,) that the scheduler `name` gave for `steps` are numbers that fall from each
    to the next.
    """
    if not sampling.isfinite().all():
        raise ValueError(f"The schedule {name} has no sigmas for {steps} steps. Take more steps, or another schedule.")
    if not (sampling.diff() < 0).all():
        raise ValueError(f"The schedule {name} repeats sigmas when it is asked for {steps} steps (steps / denoise), "
                         "more than it has. Take fewer steps or a higher denoise, or another schedule.")


def last_steps(schedule: Schedule, steps: int) -> Schedule:
    """Only the last `steps` of the sampling, and the inversion up to there."""
    return schedule._replace(inversion=schedule.inversion[:steps + 1], evaluated=schedule.evaluated[:steps],
                             sampling=schedule.sampling[-(steps + 1):], refine=schedule.refine[:steps])
