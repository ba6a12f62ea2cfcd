"""Every step count, denoise and schedule that the nodes offer: it works, or a sentence comes before the first model
call.
"""

import pytest
import torch

from tools.demo.transfer import sample_custom
from tools.pack import stylize


@pytest.fixture
def transfer(pack, model, case):
    """transfer(**settings): latents of the StyleID Sampler on small pictures, injected in one block."""
    small = [{"samples": latent["samples"][..., :8, :8]} for latent in (case.content, case.style)]
    inputs = dict(model=model, content=small[0], style=small[1], positive=case.positive, blocks="11")
    return lambda **settings: stylize(pack, **inputs, **settings)["samples"]


@pytest.mark.parametrize(("steps", "denoise"), [(2, 1.0), (6, 0.01), (3, 0.005), (2, 0.003)])
def test_official_at_the_ends_of_its_range(transfer, steps, denoise):
    """Up to 1000 steps of the whole noise schedule: steps / denoise."""
    assert transfer(steps=steps, denoise=denoise).isfinite().all()


@pytest.mark.parametrize(("steps", "denoise", "asked"), [(1, 1.0, 1), (50, 0.01, 5000), (1000, 0.9, 1111)])
def test_official_beyond_it(transfer, calls, steps, denoise, asked):
    with pytest.raises(ValueError, match=f"official has 2 to 1000 steps down from pure noise, and {asked} are asked "
                                         "for"):
        transfer(steps=steps, denoise=denoise)
    assert not calls


@pytest.mark.parametrize(("schedule", "steps", "runs"), [("official", 30, 31), ("ddim", 7, 8), ("beta", 300, 293)])
def test_another_number_of_steps_is_told(pack, model, case, caplog, schedule, steps, runs):
    small = {"samples": case.content["samples"][..., :4, :4]}
    _, _, sigmas = pack.DDIMInvert(model=model, latent=small, positive=case.positive, steps=steps, schedule=schedule)
    assert len(sigmas) == runs + 1
    told = f"The schedule {schedule} has no grid of {steps} steps on this model, and takes one of {runs}."
    assert told in caplog.messages


@pytest.mark.parametrize(("settings", "sentence"), [
    (dict(schedule="simple", steps=20, denoise=0.01), "simple repeats sigmas when it is asked for 2000 steps .* fewer "
                                                      "steps or a higher"),
    (dict(schedule="kl_optimal", steps=1), "kl_optimal has no sigmas for 1 steps. Take more steps")])
def test_schedules_without_usable_sigmas(transfer, calls, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        transfer(**settings)
    assert not calls


def test_a_sampler_that_writes_into_its_sigmas(pack, model, case, inverted):
    """uni_pc does, and ComfyUI keeps the sigmas for the next run."""
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    few = sigmas[-4:].clone()
    first, second = (sample_custom(m, case.positive, few, noise, sampler="uni_pc")["samples"] for _ in range(2))
    assert torch.equal(first, second) and torch.equal(few, sigmas[-4:])
