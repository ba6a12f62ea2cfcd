"""Round trips along a flow, on data whose denoiser is known exactly."""

import pytest
import torch

from styleid_core.ddim import sample_ddim, sample_ddim_inversion, sample_fireflow
from styleid_core.paths import Flow
from styleid_core.schedules import by_method, ddim_schedule, refined

DEVIATION = 0.8


def gaussian(x, sigma, **_):
    """E[z | x] where z is Gaussian."""
    sigma = sigma.view(-1, 1, 1, 1)
    variance = DEVIATION ** 2
    return (1 - sigma) * variance * x / ((1 - sigma) ** 2 * variance + sigma ** 2)


def two_modes(x, sigma, **_):
    """E[z | x] where z is near 0.8 or -0.8."""
    mode, width = 0.8, 0.2
    sigma = sigma.view(-1, 1, 1, 1)
    variance = ((1 - sigma) * width) ** 2 + sigma ** 2
    means = torch.stack([mode * sign + (1 - sigma) * width ** 2 / variance * (x - (1 - sigma) * mode * sign)
                         for sign in (1, -1)])
    likelihood = torch.stack([-(x - (1 - sigma) * mode * sign) ** 2 / (2 * variance) for sign in (1, -1)]).softmax(0)
    return (likelihood * means).sum(0)


def linear(steps: int) -> torch.Tensor:
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64).clamp(max=Flow().most)


def data(kind) -> torch.Tensor:
    z = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return DEVIATION * z if kind is gaussian else 0.8 * z.sign() + 0.2 * z.flip(-1)


def error(model, steps: int, method: str, rounds: int = 0) -> float:
    z, schedule = data(model), by_method(refined(ddim_schedule(linear(steps)), rounds, 0.0), method)
    if method == "fireflow":
        back = sample_fireflow(model, sample_fireflow(model, z, schedule.inversion, disable=True), schedule.sampling,
                               disable=True)
    else:
        noise = sample_ddim_inversion(model, z, schedule.inversion, disable=True, evaluated=schedule.evaluated,
                                      path=Flow(), refine=schedule.refine)
        back = sample_ddim(model, noise, schedule.sampling, disable=True)
    return ((back - z).norm() / z.norm()).item()


@pytest.mark.parametrize(("model", "steps", "method", "rounds", "limit"), [
    (gaussian, 20, "ddim", 0, 0.032), (gaussian, 50, "ddim", 0, 0.014), (gaussian, 20, "ddim", 1, 0.0017),
    (gaussian, 50, "ddim", 1, 0.0004),
    (gaussian, 20, "fireflow", 0, 0.0018), (gaussian, 50, "fireflow", 0, 0.0001), (two_modes, 4, "ddim", 0, 0.14),
    (two_modes, 20, "ddim", 0, 0.065), (two_modes, 50, "ddim", 0, 0.023), (two_modes, 20, "fireflow", 0, 0.013),
    (two_modes, 50, "fireflow", 0, 0.0013)])
def test_round_trips(model, steps, method, rounds, limit):
    assert error(model, steps, method, rounds) < limit


def test_a_fireflow_step_asks_at_its_middle_once():
    asked = []

    def model(x, sigma, **_):
        asked.append(sigma[0].item())
        return gaussian(x, sigma)

    sigmas = linear(4)
    sample_fireflow(model, data(gaussian), sigmas, disable=True)
    middles = ((sigmas[1:] + sigmas[:-1]) / 2).tolist()
    assert asked == [middles[0], *middles]


def test_methods_that_are_not_refined():
    with pytest.raises(ValueError, match="refine belongs to the inversion ddim"):
        by_method(refined(ddim_schedule(linear(4)), 1, 0.0), "fireflow")
