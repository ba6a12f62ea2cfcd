"""Samplers and schedulers of ComfyUI on features that were captured at other sigmas: each call takes the nearest step.
"""

import re

import comfy.samplers
import pytest
import torch
from cases import relative_error
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete

from tools.demo.transfer import sample_custom
from tools.reference import paper_attention

SETTINGS = dict(gamma=0.6, temperature=1.3)


@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple", "ddim_uniform"])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "heun", "uni_pc", "res_multistep"])
def test_any_deterministic_sampler(pack, model, case, inverted, sampler, scheduler):
    (noise, content, _), (_, style, _) = inverted
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 6)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **SETTINGS)
    injected, expected, plain = (sample_custom(patched, case.positive, sigmas, noise, sampler=sampler)["samples"]
                                 for patched in (m, paper_attention(model, content, style, **SETTINGS), model))
    assert relative_error(injected, expected) < 1e-4
    assert relative_error(plain, expected) > 1e-2


def test_two_model_calls_in_a_step_take_two_steps_of_features(pack, model, case, inverted, caplog):
    """Heun looks ahead: 4 sigmas above 0 and a last step to 0 are 4 distinct sigmas in 7 calls, never counted by calls.
    """
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    with caplog.at_level("INFO", logger="styleid"):
        sample_custom(m, case.positive, sigmas[[0, 1, 2, 4, 5]], noise, sampler="heun")
    assert caplog.messages[-1].endswith("at 4 steps.")


NOISE_SCHEDULES = {
    "v_prediction, zero-terminal SNR": lambda model: ModelSamplingDiscrete().patch(model, "v_prediction", True)[0],
    "lcm": lambda model: ModelSamplingDiscrete().patch(model, "lcm", False)[0],
    "EDM": lambda model: ModelSamplingContinuousEDM().patch(model, "edm", 80.0, 0.002)[0],
    "EDM of Playground 2.5":
        lambda model: ModelSamplingContinuousEDM().patch(model, "edm_playground_v2.5", 80.0, 0.002)[0],
}


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
def test_the_last_model_leaves_nothing_in_the_next(pack, model, case, noise_schedule):
    """Both share their network, which ComfyUI changes when it loads one of them, and DDIM Invert begins before that."""
    inputs = dict(latent=case.content, positive=case.positive, steps=2, schedule="official")
    expected = pack.DDIMInvert(model=model, **inputs)[0]["samples"]
    pack.DDIMInvert(model=NOISE_SCHEDULES[noise_schedule](model), **inputs)
    assert torch.equal(pack.DDIMInvert(model=model, **inputs)[0]["samples"], expected)


@pytest.mark.parametrize("noise_schedule", NOISE_SCHEDULES)
@pytest.mark.parametrize("schedule", ["official", "ddim"])
def test_other_noise_schedules(pack, pack_module, model, case, noise_schedule, schedule):
    """Sigmas come from the model's own table. The official inversion evaluates the sigma it leaves, as a stock euler
    does.
    """
    other = NOISE_SCHEDULES[noise_schedule](model)
    inversion, sampling, settings = (pack_module(name) for name in (
        "nodes.engine.inversion", "nodes.engine.sampling", "styleid_core.settings"))
    [recording] = pack.CaptureSelfAttention(model=other, blocks="6-11")
    inputs = dict(model=recording, positive=case.positive, steps=6, schedule=schedule)
    (noise, content, sigmas), (_, style, _) = (pack.DDIMInvert(latent=latent, **inputs)
                                               for latent in (case.content, case.style))
    plan = inversion.make_schedule(other, settings.InversionSettings(6, schedule))
    if schedule == "official":
        start = {"samples": sampling.carried(other, case.content["samples"], torch.zeros(()), plan.inversion[0])}
        up = sample_custom(other, case.positive, plan.inversion, start)["samples"]
        expected = sampling.carried(other, up, plan.inversion[-1], plan.sampling[0])
        assert relative_error(noise["samples"], expected) < 1e-5
    [m] = pack.InjectStyleKV(model=other, content_features=content, style_features=style, **SETTINGS)
    injected, expected, plain = (sample_custom(patched, case.positive, sigmas, noise)["samples"]
                                 for patched in (m, paper_attention(other, content, style, **SETTINGS), other))
    assert injected.isfinite().all() and torch.equal(sigmas, plan.sampling)
    assert relative_error(injected, expected) < 1e-4
    assert relative_error(plain, expected) > 1e-3


@pytest.mark.parametrize("schedule", ["official", "ddim"])
def test_the_round_trip_is_told_when_asked(pack, model, case, caplog, schedule):
    """As a stock sampler makes it, and nothing else changes; also of a model that has an injection and guidance."""
    inputs = dict(latent=case.content, positive=case.positive, steps=case.steps, schedule=schedule)
    noise, _, sigmas = pack.DDIMInvert(model=model, **inputs)
    back = sample_custom(model, case.positive, sigmas, noise)["samples"]
    if schedule == "official":
        back = back / (1 + sigmas[-1] ** 2).sqrt()  # a stock sampler leaves the latent in the scale of its last sigma
    error = relative_error(back, case.content["samples"])
    [recording] = pack.CaptureSelfAttention(model=model)
    _, features, _ = pack.DDIMInvert(model=recording, **inputs)
    [injected] = pack.InjectStyleKV(model=model, content_features=features, style_features=features)
    for m in (model, injected):
        caplog.clear()
        with caplog.at_level("INFO", logger="styleid"):
            again, _, _ = pack.DDIMInvert(model=m, round_trip=True, **inputs)
        assert torch.equal(again["samples"], noise["samples"])
        [told] = re.findall(r"round trip of \d+ steps ends ([\d.]+)% away", caplog.text)
        assert float(told) == pytest.approx(100 * error, abs=0.006)
