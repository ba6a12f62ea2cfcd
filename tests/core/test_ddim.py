"""Schedules, the sampler and the inversion against the formulas of the DDIM paper in z, and what can be solved exactly.
"""

import pytest
import torch

from styleid_core.ddim import sample_ddim, sample_ddim_inversion
from styleid_core.paths import Diffusion, vp_scale
from styleid_core.schedules import Refine, ddim_schedule, last_steps, official_schedule, refined

ALPHAS = (1 - torch.linspace(0.00085 ** 0.5, 0.012 ** 0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
SIGMAS = ((1 - ALPHAS) / ALPHAS).sqrt()


def timesteps(sigmas: torch.Tensor) -> list[int]:
    return [int((SIGMAS - sigma).abs().argmin()) for sigma in sigmas]


def test_official_at_50_steps_skips_the_first_sampling_step():
    schedule = official_schedule(SIGMAS, 50)
    assert timesteps(schedule.evaluated) == list(range(1, 982, 20))
    assert timesteps(schedule.inversion) == [*range(1, 982, 20), 999]
    assert timesteps(schedule.sampling) == [*range(961, 0, -20), 0]


@pytest.mark.parametrize(("steps", "last", "count"), [(20, 951, 20), (25, 961, 25), (30, 991, 31), (100, 991, 100),
                                                      (1000, 999, 999)])
def test_official_elsewhere_samples_every_timestep_it_inverted(steps, last, count):
    schedule = official_schedule(SIGMAS, steps)
    assert len(schedule.evaluated) == count
    assert timesteps(schedule.inversion)[-2:] == [last, 999]
    assert timesteps(schedule.sampling) == [*reversed(timesteps(schedule.evaluated)), 0]


def test_ddim_inverts_along_the_sampled_sigmas():
    sampling = torch.tensor([14.0, 3.0, 0.5, 0.0])
    schedule = ddim_schedule(sampling)
    assert schedule.inversion.tolist() == [0.0, 0.5, 3.0, 14.0]
    assert schedule.evaluated.tolist() == [0.5, 3.0, 14.0]
    assert torch.equal(schedule.sampling, sampling)


def toy_eps(z: torch.Tensor, t: int) -> torch.Tensor:
    return torch.tanh(1.3 * z + 0.002 * t) + 0.1 * z.roll(1, -1)


def toy_model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Denoised of `toy_eps` behind the k-diffusion contract."""
    t = int((SIGMAS - sigma[0]).abs().argmin())
    return x - sigma[0] * toy_eps(x / vp_scale(sigma[0]), t)


def ddim_step(z: torch.Tensor, eps: torch.Tensor, t: int, t_next: int) -> torch.Tensor:
    """Eq. 12 of Song et al. with sigma_t = 0."""
    a, a_next = ALPHAS[t], ALPHAS[t_next]
    return a_next.sqrt() * (z - (1 - a).sqrt() * eps) / a.sqrt() + (1 - a_next).sqrt() * eps


def test_official_inversion_and_sampling_are_ddim_in_z():
    schedule = official_schedule(SIGMAS, 50)
    z = z0 = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    grid = list(range(1, 982, 20))
    for t, t_next in zip(grid, [*grid[1:], 999]):
        z = ddim_step(z, toy_eps(z, t), t, t_next)
    x0 = z0 * vp_scale(schedule.inversion[0])
    x = sample_ddim_inversion(toy_model, x0, schedule.inversion, disable=True, evaluated=schedule.evaluated,
                              path=Diffusion())
    torch.testing.assert_close(x / vp_scale(schedule.inversion[-1]), z)

    start = z
    down = grid[-2::-1]
    for t, t_next in zip(down, [*down[1:], 0]):
        z = ddim_step(z, toy_eps(z, t), t, t_next)
    x = sample_ddim(toy_model, start * vp_scale(schedule.sampling[0]), schedule.sampling, disable=True)
    torch.testing.assert_close(x / vp_scale(schedule.sampling[-1]), z)


def test_ddim_inversion_evaluates_the_sampled_sigmas_with_z_unchanged():
    sampling = torch.cat([SIGMAS[1::50].flip(0), torch.zeros(1)])
    schedule = ddim_schedule(sampling)
    z = z0 = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    a_before = torch.ones(1, dtype=torch.float64)
    for t in range(1, 1000, 50):
        eps = toy_eps(z, t)
        z = ALPHAS[t].sqrt() * (z - (1 - a_before).sqrt() * eps) / a_before.sqrt() + (1 - ALPHAS[t]).sqrt() * eps
        a_before = ALPHAS[t]
    x = sample_ddim_inversion(toy_model, z0, schedule.inversion, disable=True, evaluated=schedule.evaluated,
                              path=Diffusion())
    torch.testing.assert_close(x / vp_scale(schedule.inversion[-1]), z)


@pytest.mark.parametrize(("steps", "limit"), [(50, 0.02), (200, 0.005)])
def test_ddim_schedule_gives_the_picture_back(steps, limit):
    """On Gaussian data of deviation 0.8 the optimal denoiser is known; DDIM converges to its flow with the step count.
    """
    def model(x, sigma):
        return x * 0.8 ** 2 / (0.8 ** 2 + sigma[0] ** 2)

    z = 0.8 * torch.randn(1, 4, 32, 32, dtype=torch.float64)
    schedule = ddim_schedule(torch.cat([SIGMAS[1::1000 // steps].flip(0), torch.zeros(1)]))
    noise = sample_ddim_inversion(model, z, schedule.inversion, disable=True, evaluated=schedule.evaluated,
                                  path=Diffusion())
    error = (sample_ddim(model, noise, schedule.sampling, disable=True) - z).norm() / z.norm()
    assert error < limit

    lower_ends = schedule.inversion[1:-1]
    noise = sample_ddim_inversion(model, z * vp_scale(lower_ends[0]), schedule.inversion[1:], disable=True,
                                  evaluated=lower_ends, path=Diffusion())
    worse = (sample_ddim(model, noise, schedule.sampling, disable=True) - z).norm() / z.norm()
    assert worse > 4 * error


def test_each_round_brings_the_picture_closer():
    """The same data in 8 steps: with every further round the step comes nearer to the inverse of the one that is
    sampled.
    """
    def model(x, sigma):
        return x * 0.8 ** 2 / (0.8 ** 2 + sigma[0] ** 2)

    z = 0.8 * torch.randn(1, 4, 32, 32, dtype=torch.float64)
    plain = ddim_schedule(torch.cat([SIGMAS[1::125].flip(0), torch.zeros(1)]))
    errors = []
    for rounds in range(5):
        schedule = refined(plain, rounds, quarter=0.0)  # at which the last prediction counts
        noise = sample_ddim_inversion(model, z, schedule.inversion, disable=True, evaluated=schedule.evaluated,
                                      path=Diffusion(), refine=schedule.refine)
        errors.append((sample_ddim(model, noise, schedule.sampling, disable=True) - z).norm() / z.norm())
    assert all(b < 0.75 * a for a, b in zip(errors, errors[1:])), errors


def test_the_mean_of_the_rounds():
    values = [torch.tensor(float(i)) for i in range(11)]
    plain = ddim_schedule(SIGMAS.flip(0)[::100])
    low, high = (refined(plain, 9, quarter).refine[0] for quarter in (1.0, 0.0))
    assert (low.rounds, high.rounds) == (5, 9)
    assert low.mean(values[:6]) == 2.0 and high.mean(values[:10]) == 8.5  # of 0 to 4, and of 8 and 9
    assert Refine(3, 8, 10).mean(values[:4]) == 3.0, "the last where none is in the range"


def test_edm_data_has_a_deviation_of_its_own():
    """The same on EDM's sigmas for data of deviation 0.4: what `sigma_data` 0.5 tells the inversion makes the error
    smaller.
    """
    def model(x, sigma):
        return x * 0.4 ** 2 / (0.4 ** 2 + sigma[0] ** 2)

    z = 0.4 * torch.randn(1, 4, 32, 32, dtype=torch.float64)
    schedule = ddim_schedule(torch.cat([torch.logspace(1.9, -2.7, 50, dtype=torch.float64), torch.zeros(1)]))
    errors = []
    for sigma_data in (0.5, 1.0):
        noise = sample_ddim_inversion(model, z, schedule.inversion, disable=True, evaluated=schedule.evaluated,
                                      path=Diffusion(sigma_data))
        errors.append((sample_ddim(model, noise, schedule.sampling, disable=True) - z).norm() / z.norm())
    assert errors[0] < 0.05 and errors[1] > 3 * errors[0]


def test_the_last_steps_are_inverted_as_they_are_sampled():
    whole = official_schedule(SIGMAS, 20)
    part = last_steps(whole, 8)
    assert torch.equal(part.sampling, whole.sampling[-9:]) and torch.equal(part.inversion, whole.inversion[:9])
    assert torch.equal(part.evaluated.flip(0), part.sampling[:-1])


def test_callbacks_tell_every_step():
    seen = []
    sample_ddim(toy_model, torch.randn(1, 4, 4, 4, dtype=torch.float64), SIGMAS[[961, 481, 1]], callback=seen.append,
                disable=True)
    assert [(event["i"], float(event["sigma"])) for event in seen] == [(0, float(SIGMAS[961])), (1, float(SIGMAS[481]))]
    assert seen[0]["denoised"].shape == seen[0]["x"].shape
