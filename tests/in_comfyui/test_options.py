"""What goes beyond the paper: injection into one side of guidance, partial denoise, masks, models that were unloaded,
presets, sweeps.
"""

from itertools import combinations

import comfy.model_management
import pytest
import torch
from cases import relative_error, with_steps
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import SamplerCustom

import nodes
from styleid_core.storage import size
from tools.demo.transfer import sample_custom
from tools.miniature.transformers import load_transformer
from tools.pack import stylize
from tools.reference import paper_attention

GAMMA = dict(gamma=0.6)


@pytest.fixture
def negative(case):
    return [[case["context"].flip(1) * 2, {}]]


def by_hand(sides, sigmas, noise, cfg):
    """Guidance from two unguided euler steps for each step: it is linear in what those give."""
    latent = noise
    for pair in sigmas.unfold(0, 2, 1):
        cond, uncond = (sample_custom(m, conditioning, pair, latent)["samples"] for m, conditioning in sides)
        latent = {"samples": uncond + cfg * (cond - uncond)}
    return latent["samples"]


@pytest.mark.parametrize("inject_into", ["both", "cond", "uncond"])
def test_injection_into_one_side_of_guidance(pack, model, case, inverted, negative, inject_into):
    """Content and style have sizes of their own, so the two sides attend to a different number of keys."""
    (noise, content, sigmas), (_, style, _) = inverted
    style = with_steps(style, [[n[:, :n.shape[1] // 2] for n in step] for step in style.source.steps])
    sigmas = sigmas[:4]
    papers = paper_attention(model, content, style, temperature=1.3, **GAMMA)
    sides = [(papers if inject_into in ("both", side) else model, conditioning)
             for side, conditioning in (("cond", case.positive), ("uncond", negative))]
    expected = by_hand(sides, sigmas, noise, 4.0)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, temperature=1.3,
                             inject_into=inject_into, **GAMMA)
    assert relative_error(sample_custom(m, case.positive, sigmas, noise, cfg=4.0, negative=negative)["samples"],
                          expected) < 1e-4


def test_no_blocks_are_no_injection_whatever_the_model_records(pack, model, case):
    [recording] = pack.CaptureSelfAttention(model=model)
    inputs = dict(content=case.content, style=case.style, positive=case.positive, steps=4)
    colored, also, injected = (stylize(pack, model=each, blocks=blocks, **inputs)
                               for each, blocks in ((model, ""), (recording, ""), (model, "auto")))
    assert relative_error(also["samples"], colored["samples"]) < 1e-6
    assert relative_error(injected["samples"], colored["samples"]) > 1e-3


def test_injection_into_a_side_that_is_not_evaluated_is_named(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, inject_into="uncond")
    with pytest.raises(ValueError, match="Raise cfg above 1"):
        sample_custom(m, case.positive, sigmas[:2], noise)


@pytest.mark.parametrize(("dtype", "limit", "share"), [("fp16", 1e-3, 0.5), ("bf16", 5e-3, 0.5), ("int8", 2e-2, 0.29)])
def test_storage_of_features(pack, model, case, inverted, dtype, limit, share):
    """Of a model in float32; int8 keeps a scale of 4 bytes for a token of 32 to 128 channels."""
    (noise, content, sigmas), (_, style, _) = inverted
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_dtype=dtype)
    inputs = dict(model=recording, positive=case.positive, steps=case.steps, schedule="ddim")
    kept = [pack.DDIMInvert(latent=latent, **inputs)[1] for latent in (case.content, case.style)]
    [expected], [result] = (pack.InjectStyleKV(model=model, content_features=c, style_features=s)
                            for c, s in ((content, style), kept))
    expected, result = (sample_custom(m, case.positive, sigmas, noise)["samples"] for m in (expected, result))
    assert 0 < relative_error(result, expected) < limit
    assert sum(map(size, kept[0].source.steps)) / sum(map(size, content.source.steps)) <= share


@pytest.mark.parametrize(("start", "end", "steps"), [(0.0, 0.5, 2), (0.5, 1.0, 3), (0.2, 0.7, 2)])
def test_injection_in_a_part_of_the_sampling(pack, model, case, inverted, start, end, steps):
    (noise, content, sigmas), (_, style, _) = inverted
    inputs = dict(model=model, content_features=content, style_features=style)
    [always], [sometimes] = (pack.InjectStyleKV(**inputs, **settings)
                             for settings in ({}, dict(start_percent=start, end_percent=end)))
    sigma_at = model.get_model_object("model_sampling").percent_to_sigma
    latent, injected = noise, 0
    for pair in sigmas.unfold(0, 2, 1):
        inside = sigma_at(end) <= pair[0] <= sigma_at(start)
        latent = sample_custom(always if inside else model, case.positive, pair, latent)
        injected += bool(inside)
    assert injected == steps
    result = sample_custom(sometimes, case.positive, sigmas, noise)["samples"]
    assert relative_error(result, latent["samples"]) < 1e-4

    one_node = stylize(pack, model=model, content=case.content, style=case.style, positive=case.positive,
                       steps=case.steps, schedule="ddim", color_strength=0.0, start_percent=start, end_percent=end)
    assert relative_error(one_node["samples"], result) < 1e-4


@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_some_of_the_captured_layers(pack, model, case, device):
    """Without inverting again, as if only those had been captured."""
    results = []
    for captured, injected in (("9-10", ""), ("6-11", "9-10")):
        [recording] = pack.CaptureSelfAttention(model=model, blocks=captured, feature_device=device)
        (noise, content, sigmas), (_, style, _) = (
            pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=4)
            for latent in (case.content, case.style))
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, blocks=injected)
        results.append(sample_custom(m, case.positive, sigmas, noise)["samples"])
    assert torch.equal(*results)


@pytest.mark.parametrize("schedule", ["official", "ddim", "karras"])
def test_partial_denoise_is_the_end_of_a_longer_run(pack, model, case, schedule):
    [recording] = pack.CaptureSelfAttention(model=model, blocks="9-11")
    inputs = dict(model=recording, latent=case.content, positive=case.positive, schedule=schedule)
    _, whole, whole_sigmas = pack.DDIMInvert(steps=10, **inputs)
    noise, features, sigmas = pack.DDIMInvert(steps=4, denoise=0.4, **inputs)
    assert torch.equal(sigmas, whole_sigmas[-5:])
    assert features.sigmas == whole.sigmas[:4]
    assert all(torch.equal(a, b) for part, full in zip(features.source.steps, whole.source.steps)
               for a, b in zip(part, full))
    assert (noise["samples"] - case.content["samples"]).norm() < case.content["samples"].norm() * sigmas[0] * 2


def test_partial_denoise_in_one_node_and_in_five(pack, model, case):
    inputs = dict(positive=case.positive, steps=4, schedule="ddim", denoise=0.5)
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
    (noise, content, sigmas), (style_noise, style, _) = (
        pack.DDIMInvert(model=recording, latent=latent, **inputs) for latent in (case.content, case.style))
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    one_node = stylize(pack, model=model, content=case.content, style=case.style, **inputs)
    assert relative_error(one_node["samples"], sample_custom(m, case.positive, sigmas, start)["samples"]) < 1e-4


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_mask_keeps_what_is_outside(pack, model, case, sampler):
    height, width = case.content["samples"].shape[-2:]
    mask = torch.zeros(1, 8 * height, 8 * width)
    mask[..., : 4 * width] = 1
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
    inputs = dict(model=recording, positive=case.positive, steps=4, schedule="ddim")
    noise, content, sigmas = pack.DDIMInvert(latent=case.content | {"noise_mask": mask}, **inputs)
    _, style, _ = pack.DDIMInvert(latent=case.style, **inputs)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    masked = sample_custom(m, case.positive, sigmas, noise, sampler=sampler)["samples"]
    whole = sample_custom(m, case.positive, sigmas, {"samples": noise["samples"]}, sampler=sampler)["samples"]
    half = width // 2
    assert torch.equal(masked[..., half:], case.content["samples"][..., half:])
    assert torch.equal(masked[..., :half], whole[..., :half])


@pytest.fixture
def masked(pack, model, case):
    """masked(schedule, **settings): (MODEL with the style, noise with a mask of the left half, sigmas)."""
    height, width = case.content["samples"].shape[-2:]
    left = torch.zeros(1, 8 * height, 8 * width)
    left[..., : 4 * width] = 1
    [recording] = pack.CaptureSelfAttention(model=model)

    def with_mask(schedule, steps=6, denoise=1.0, **settings):
        inputs = dict(model=recording, positive=case.positive, steps=steps, schedule=schedule, denoise=denoise)
        noise, content, sigmas = pack.DDIMInvert(latent=case.content | {"noise_mask": left}, **inputs)
        _, style, _ = pack.DDIMInvert(latent=case.style, **inputs)
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **settings)
        return m, noise, sigmas

    return with_mask


@pytest.mark.parametrize(("schedule", "settings", "cuts"), [
    ("ddim", {}, [3]), ("ddim", {}, [1, 5]), ("official", {}, [3]), ("official", {}, [5]), ("karras", {}, [2, 4]),
    ("ddim", dict(denoise=0.5), [4]), ("ddim", dict(start_percent=0.3), [1]), ("ddim", dict(end_percent=0.6), [5])])
def test_a_mask_over_a_sampling_in_parts(masked, case, schedule, settings, cuts):
    """It waits for the end, also where a part has no style; what is between two parts is whole."""
    m, noise, sigmas = masked(schedule, **settings)
    latent = noise
    for start, end in zip([0, *cuts], [*cuts, len(sigmas) - 1]):
        latent = sample_custom(m, case.positive, sigmas[start:end + 1], latent)
    assert relative_error(latent["samples"], sample_custom(m, case.positive, sigmas, noise)["samples"]) < 1e-5
    right = case.content["samples"].shape[-1] // 2
    assert torch.equal(latent["samples"][..., right:], case.content["samples"][..., right:])


def test_a_mask_in_what_a_sampling_shows_on_the_way(masked, case):
    """In previews, and in the second output of SamplerCustom: the content's own outside of the mask."""
    m, noise, sigmas = masked("ddim")
    result = SamplerCustom.execute(m, False, 0, 1.0, case.positive, case.positive, sampler_object("euler"), sigmas[:4],
                                   noise).result
    unmasked = SamplerCustom.execute(m, False, 0, 1.0, case.positive, case.positive, sampler_object("euler"),
                                     sigmas[:4], {"samples": noise["samples"]}).result
    half = case.content["samples"].shape[-1] // 2
    torch.testing.assert_close(result[1]["samples"][..., half:], case.content["samples"][..., half:])
    torch.testing.assert_close(result[1]["samples"][..., :half], unmasked[1]["samples"][..., :half])


def test_a_mask_over_two_ksamplers(masked, case):
    """KSampler (Advanced) that returns with leftover noise, and another that goes on from it."""
    m, noise, _ = masked("ddim")
    sampler = nodes.KSamplerAdvanced()

    def run(latent, start, end, leftover):
        return sampler.sample(m, "disable", 0, 6, 1.0, "euler", "ddim_uniform", case.positive, case.positive, latent,
                              start, end, leftover)[0]

    whole = run(noise, 0, 10000, "disable")
    assert relative_error(run(run(noise, 0, 2, "enable"), 2, 10000, "disable")["samples"], whole["samples"]) < 1e-5


def test_two_styles_in_two_parts_of_the_sampling(pack, model, case, inverted):
    """Each part has one of them, and neither is missed in the other's."""
    (noise, content, sigmas), (_, style, _) = inverted
    m = model
    for features, span in ((style, (0.0, 0.5)), (content, (0.5, 1.0))):
        [m] = pack.InjectStyleKV(model=m, content_features=content, style_features=features, start_percent=span[0],
                                 end_percent=span[1])
    whole = sample_custom(m, case.positive, sigmas, noise)["samples"]
    first = sample_custom(m, case.positive, sigmas[:2], noise)
    second = sample_custom(m, case.positive, sigmas[1:4], first)
    assert relative_error(sample_custom(m, case.positive, sigmas[3:], second)["samples"], whole) < 1e-5


def test_a_model_that_is_unloaded_between_the_nodes(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    expected = sample_custom(m, case.positive, sigmas[:4], noise)["samples"]
    comfy.model_management.unload_all_models()
    assert not comfy.model_management.loaded_models()
    assert torch.equal(sample_custom(m, case.positive, sigmas[:4], noise)["samples"], expected)


@pytest.mark.parametrize("curve", ["gamma_curve", "temperature_curve", "weight_curve"])
def test_curves_in_one_node_and_in_five(pack, model, case, inverted, curve):
    (noise, content, sigmas), (_, style, _) = inverted
    [shape] = pack.StyleIDCurve(start=1.0, end=0.2, shape="linear")
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **{curve: shape})
    result = sample_custom(m, case.positive, sigmas, noise)["samples"]
    inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive, steps=case.steps,
                  schedule="ddim", color_strength=0.0)
    assert relative_error(stylize(pack, **inputs, **{curve: shape})["samples"], result) < 1e-4
    assert relative_error(stylize(pack, **inputs)["samples"], result) > 1e-3


def test_a_preset_is_the_values_that_it_fills_in(pack, model, case):
    inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive, steps=case.steps,
                  schedule="ddim")
    [told] = (each for each in nodes.NODE_CLASS_MAPPINGS["StyleIDSampler"].GET_SCHEMA().inputs if each.id == "preset")
    presets = told.extra_dict["presets"]
    assert set(told.options) == {"custom", *presets}
    results = {}
    for name, values in presets.items():
        [by_name], [by_hand] = pack.StyleIDSampler(preset=name, **inputs), pack.StyleIDSampler(**values, **inputs)
        assert torch.equal(by_name["samples"], by_hand["samples"])
        results[name] = by_name["samples"]
    assert all(relative_error(a, b) > 1e-3 for a, b in combinations(results.values(), 2))
    assert torch.equal(results["paper"], pack.StyleIDSampler(**inputs)[0]["samples"])


@pytest.mark.parametrize("gamma", [0.75, 0.5])
def test_a_value_that_is_given_beside_a_preset_counts(pack, model, case, caplog, gamma):
    """Also where it is the default: a link brings it, as from StyleID Sweep."""
    inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive, steps=2,
                  schedule="ddim", gamma=gamma)
    with caplog.at_level("INFO", logger="styleid"):
        [result] = pack.StyleIDSampler(preset="strong", **inputs)
    assert torch.equal(result["samples"], pack.StyleIDSampler(weight=0.97, **inputs)[0]["samples"])
    assert f"gamma is {gamma}, as it is given, and not 0.25 as in the preset strong." in caplog.messages


def test_strength_goes_from_the_content_to_the_style(pack, model):
    flow = load_transformer("z_image")
    for m, least in ((model, 0.2), (flow, 0.0)):
        gammas, weights = zip(*(pack.StyleIDStrength(model=m, strength=i / 10) for i in range(11)))
        assert (gammas[0], weights[0], gammas[-1], weights[-1]) == (1, 0, least, 1)
        assert sorted(gammas, reverse=True) == list(gammas) and sorted(weights) == list(weights)
        assert 0.9 < weights[5] < 0.95


def test_a_sweep_runs_over_all_combinations(pack):
    gamma, temperature, label, columns = pack.StyleIDSweep(gamma="0.3, 0.75", temperature="1 1.5,2")
    assert list(zip(gamma, temperature)) == [(0.3, 1), (0.75, 1), (0.3, 1.5), (0.75, 1.5), (0.3, 2), (0.75, 2)]
    assert label[2] == "gamma 0.3, temperature 1.5" and len(label) == 6 and columns == 2


@pytest.mark.parametrize(("gamma", "temperature", "named"), [("", "1", 'gamma ""'), ("0.3; 0.5", "1", "gamma"),
                                                             ("nan", "1", "gamma"), ("1.5", "1", "gamma"),
                                                             ("0.5", "1, -2", "temperature"),
                                                             ("0.5", "inf", "temperature")])
def test_a_sweep_over_no_numbers_is_refused(pack, gamma, temperature, named):
    with pytest.raises(ValueError, match=f"{named}.* is no list of numbers from 0 to 1"):
        pack.StyleIDSweep(gamma=gamma, temperature=temperature)


def test_start_frequencies_are_seeded_and_keep_what_is_not_damped(pack, case, inverted):
    (noise, _, _), _ = inverted
    noise = noise | {"noise_mask": torch.ones(1, 8, 8)}
    [same] = pack.StyleIDStartFrequencies(noise=noise, keep=1.0)
    assert torch.allclose(same["samples"], noise["samples"], rtol=1e-5,
                          atol=1e-5) and same["noise_mask"] is noise["noise_mask"]
    first, again, other = (pack.StyleIDStartFrequencies(noise=noise, seed=seed)[0]["samples"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and relative_error(other, first) > 1e-2
    with pytest.raises(ValueError, match="The setting keep is nan"):
        pack.StyleIDStartFrequencies(noise=noise, keep=float("nan"))
