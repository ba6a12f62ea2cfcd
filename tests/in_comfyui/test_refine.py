"""Inversions that ask the model again at each step. Their numbers are those of ReNoise's code: test_parity."""

import pytest
import torch
from cases import relative_error

from tools.demo.transfer import sample_custom
from tools.pack import stylize

ROUNDS = 2


def inverted_with(pack, model, case, latent: dict, refine: int, device: str = "auto", steps: int = 4) -> tuple:
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device=device)
    return pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=steps, schedule="ddim",
                           refine=refine)


def test_each_round_is_one_call_and_the_last_is_kept(pack, model, case, calls):
    noise, features, sigmas = inverted_with(pack, model, case, case.content, ROUNDS)
    assert len(calls) == 4 * (1 + ROUNDS) and len(features.source.steps) == len(features.sigmas) == 4
    # In the last round the model saw the estimate of the round before it, and at pure noise the step goes along what it
    # then said.
    assert features.sigmas == sorted(sigmas[:-1].tolist())
    _, once, _ = inverted_with(pack, model, case, case.content, 0)
    assert all(relative_error(a, b) > 1e-4 for a, b in zip(features.source.steps[-1], once.source.steps[-1]))
    assert relative_error(noise["samples"], inverted_with(pack, model, case, case.content,
                                                          ROUNDS - 1)[0]["samples"]) > 1e-4


def test_features_that_are_computed_again_are_those_of_the_last_round(pack, model, case):
    results = []
    for device in ("auto", "recompute"):
        (noise, content, sigmas), (_, style, _) = (inverted_with(pack, model, case, latent, ROUNDS, device)
                                                   for latent in (case.content, case.style))
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
        results.append(sample_custom(m, case.positive, sigmas, noise)["samples"])
    assert relative_error(*results) < 1e-5


def test_one_node_and_five(pack, model, case):
    (noise, content, sigmas), (style_noise, style, _) = (inverted_with(pack, model, case, latent, ROUNDS)
                                                         for latent in (case.content, case.style))
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    expected = sample_custom(m, case.positive, sigmas, start)["samples"]
    inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive, steps=4, schedule="ddim")
    assert relative_error(stylize(pack, refine=ROUNDS, **inputs)["samples"], expected) < 1e-4
    assert relative_error(stylize(pack, **inputs)["samples"],
                          expected) > 1e-3, "remembered an inversion that was made in another way"


@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_a_node_that_leaves_out_what_it_takes_for_the_same_call_is_refused(pack, model, case, device):
    """The features of later steps would stand under the sigmas of earlier ones."""
    known = {}

    def once_for_a_sigma(apply_model, args):
        sigma = float(args["timestep"][0])
        if sigma not in known:
            known[sigma] = apply_model(args["input"], args["timestep"], **args["c"])
        return known[sigma]

    cached = model.clone()
    cached.set_model_unet_function_wrapper(once_for_a_sigma)
    with pytest.raises(ValueError, match=r"called the model at \d of 4 steps: another node left the others out"):
        inverted_with(pack, cached, case, case.content, ROUNDS, device)


def test_a_partial_inversion_is_refined_too(pack, model, case, calls):
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
    inputs = dict(model=recording, latent=case.content, positive=case.positive, schedule="ddim", refine=1)
    whole, part = pack.DDIMInvert(steps=8, **inputs)[1], pack.DDIMInvert(steps=4, denoise=0.5, **inputs)[1]
    assert len(calls) == 24
    assert all(torch.equal(a, b) for long, short in zip(whole.source.steps, part.source.steps)
               for a, b in zip(long, short))


def test_the_official_schedule_has_no_place_to_ask_again(pack, model, case):
    with pytest.raises(ValueError, match="Take the schedule ddim, or set refine to 0"):
        pack.DDIMInvert(model=model, latent=case.content, positive=case.positive, steps=4, schedule="official",
                        refine=1)


def test_tiles_are_still_noticed(pack, model, case):
    """A node that calls the model twice for a step is no further round."""
    def twice(executor, *args, **kwargs):
        executor(*args, **kwargs)
        return executor(*args, **kwargs)

    m = model.clone()
    m.add_wrapper_with_key("diffusion_model", "twice", twice)
    with pytest.raises(ValueError, match="another node makes several"):
        inverted_with(pack, m, case, case.content, ROUNDS)


def test_both_pictures_in_one_batch(pack, model, case):
    batch = {"samples": torch.cat([case.content["samples"], case.style["samples"]])}
    together, single = (inverted_with(pack, model, case, latent, ROUNDS)[0] for latent in (batch, case.content))
    assert relative_error(together["samples"][:1], single["samples"]) < 1e-4
