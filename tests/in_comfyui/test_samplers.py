"""Samplers and schedulers of ComfyUI on features that were captured at other sigmas: each call takes the nearest step."""

import comfy.samplers
import pytest

SETTINGS = dict(gamma=0.6, temperature=1.3)


@pytest.mark.parametrize("scheduler", ["normal", "karras", "simple", "ddim_uniform"])
@pytest.mark.parametrize("sampler", ["euler", "ddim", "dpmpp_2m", "heun", "uni_pc", "lcm"])
def test_any_deterministic_sampler(pack, model, case, inverted, paper_attention, sample_custom, relative_error, sampler, scheduler):
    (noise, content, _), (_, style, _) = inverted
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), scheduler, 6)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **SETTINGS)
    injected, expected, plain = (sample_custom(patched, case.positive, sigmas, noise, sampler=sampler)["samples"]
                                 for patched in (m, paper_attention(model, content, style, **SETTINGS), model))
    assert relative_error(injected, expected) < 1e-4
    assert relative_error(plain, expected) > 1e-2


def test_two_model_calls_in_a_step_take_two_steps_of_features(pack, model, case, inverted, sample_custom, caplog):
    """Heun looks ahead: 4 sigmas above 0 and a last step to 0 are 4 distinct sigmas in 7 calls, never counted by calls."""
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    with caplog.at_level("INFO", logger="styleid"):
        sample_custom(m, case.positive, sigmas[[0, 5, 10, 15, 20]], noise, sampler="heun")
    assert caplog.messages[-1].endswith("at 4 steps.")
