"""Every mistake stops with a ValueError that names the value and says what to change."""

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from cases import free_memory, with_steps
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

from tools.demo.transfer import sample_custom
from tools.miniature.unet import load_unet, new_unet
from tools.pack import stylize


@pytest.fixture
def inputs(model, case):
    return dict(model=model, content=case.content, style=case.style, positive=case.positive, steps=3)


@pytest.mark.parametrize(("blocks", "message"), [
    ("12", 'output block 12 of this model has no self-attention. Choose from output 3-11, or write "auto"'),
    ("0-3", "output block 0 of this model"),
    ("6 @ 0-1", "the transformers in output block 6 of this model are numbered 0 to 0"),
    ("middle", '"middle" is not a block number')])
def test_unknown_blocks(pack, model, inputs, blocks, message):
    with pytest.raises(ValueError, match=message):
        pack.CaptureSelfAttention(model=model, blocks=blocks)
    with pytest.raises(ValueError, match=message):
        pack.StyleIDSampler(**inputs | {"blocks": blocks})


@pytest.mark.parametrize("blocks", ["6–11", "6 — 11", "AUTO", "6-11\n", "6-11,", "Output 6-8; output 9-11", "6-8\n9-11"])
def test_blocks_as_people_write_them(pack, model, case, blocks):
    [recording] = pack.CaptureSelfAttention(model=model, blocks=blocks)
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2, schedule="ddim")
    assert [number for _, number, _ in features.blocks] == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("blocks", ["x" * 20000, "6" * 4300, "6-" + "9" * 4300])
def test_long_blocks_are_not_echoed(pack, model, blocks):
    with pytest.raises(ValueError, match="is not a block number or a range like 6-11") as error:
        pack.CaptureSelfAttention(model=model, blocks=blocks)
    assert len(str(error.value)) < 300


def test_capturing_nothing_is_refused(pack, model):
    with pytest.raises(ValueError, match='Write for example "6-11"'):
        pack.CaptureSelfAttention(model=model, blocks="")


@pytest.mark.parametrize(("broken", "message"), [
    (lambda z: z * float("nan"), "content latent contains NaN.*--fp32-vae"),
    (lambda z: z / 0, "content latent contains NaN or infinity"),
    (lambda z: z * 0, "content latent is empty. Connect a picture"),
    (lambda z: z[:0], "content latent is empty"),
    (lambda z: z.repeat(1, 4, 1, 1), r"content latent has shape \[1, 16, 16, 24\], and this model works on \[batch, 4"),
    (lambda z: z.repeat(3, 1, 1, 1), "3 contents and 2 styles")])
def test_unusable_latents(pack, inputs, case, broken, message):
    style = {"samples": case.style["samples"].repeat(2, 1, 1, 1)}
    with pytest.raises(ValueError, match=message):
        pack.StyleIDSampler(**inputs | {"content": {"samples": broken(case.content["samples"])}, "style": style})


@pytest.mark.parametrize(("shape", "message"), [
    ((1, 16, 16, 24), "The content latent has 4 channels and the style latent 16. Encode both with the VAE of the same"),
    ((4, 16, 24), r"style latent has shape \[4, 16, 24\], and that of a picture is \[batch, channels, height, width\]"),
    ((1, 4, 3, 16, 24), r"style latent has shape \[1, 4, 3, 16, 24\].*video and audio"),
    ((1, 4, 1, 1), "style latent is 1x1, and a single value has no deviation")])
def test_latents_that_adain_cannot_match(pack, inputs, case, shape, message):
    style = {"samples": torch.randn(shape)}
    with pytest.raises(ValueError, match=message):
        pack.LatentAdaIN(content=case.content, style=style)
    with pytest.raises(ValueError, match="style latent"):
        pack.StyleIDSampler(**inputs | {"style": style})
    with pytest.raises(ValueError, match="input latent"):
        pack.DDIMInvert(model=inputs["model"], latent=style, positive=case.positive, steps=2)


def test_a_model_that_predicts_nan(pack, model, inputs, case, inverted):
    """Named as the model's, and not as the VAE's by the node that gets it next."""
    (noise, content, sigmas), (_, style, _) = inverted
    broken = model.clone()
    broken.set_model_attn2_patch(lambda n, context, value, extra_options: (n / 0, context, value))
    message = "The model predicted NaN or infinity.*--force-upcast-attention"
    with pytest.raises(ValueError, match=message):
        pack.DDIMInvert(model=broken, latent=case.content, positive=case.positive, steps=2, schedule="ddim")
    with pytest.raises(ValueError, match=message):
        pack.StyleIDSampler(**inputs | {"model": broken})
    [m] = pack.InjectStyleKV(model=broken, content_features=content, style_features=style)
    with pytest.raises(ValueError, match=message):
        sample_custom(m, case.positive, sigmas[-3:], noise)


def test_recomputed_features_of_another_model(pack, model, case):
    """Of the same widths, which nothing else would tell."""
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device="recompute")
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2, schedule="ddim")
    other = load_unet(weight_seed=1)
    with pytest.raises(ValueError, match="content_features are recomputed, by a model that was not the one that is sampled. Invert with"):
        pack.InjectStyleKV(model=other, content_features=features, style_features=features)
    pack.InjectStyleKV(model=model.clone(), content_features=features, style_features=features)


@pytest.fixture(scope="module")
def aura():
    """ComfyUI's own AuraFlow, without the size."""
    unet = dict(cond_seq_dim=8, dim=16, n_layers=2, n_double_layers=1, n_heads=2, dtype=torch.float32)
    return new_unet(unet, comfy.supported_models.AuraFlow)


def test_a_model_of_no_family(pack, aura, inputs):
    latent = {"samples": torch.randn(1, 4, 16, 24)}
    message = "needs a UNet with self-attention .* this model is a MMDiT"
    with pytest.raises(ValueError, match=message):
        pack.CaptureSelfAttention(model=aura, blocks="6-11")
    with pytest.raises(ValueError, match=message):
        pack.DDIMInvert(model=aura, latent=latent, positive=inputs["positive"], steps=3, schedule="ddim")
    for blocks in ("6-11", ""):
        with pytest.raises(ValueError, match=message):
            pack.StyleIDSampler(**inputs | {"model": aura, "content": latent, "style": latent, "blocks": blocks})


def test_a_unet_that_is_set_to_flow_matching(pack, model, inputs):
    [flowing] = ModelSamplingSD3().patch(model, 3.0)
    with pytest.raises(ValueError, match="set to flow matching.*Remove the node"):
        pack.StyleIDSampler(**inputs | {"model": flowing})


def test_features_that_were_not_captured(pack, model, case, inverted):
    noise, none, _ = pack.DDIMInvert(model=model, latent=case.content, positive=case.positive, steps=3, schedule="ddim")
    (_, features, _), _ = inverted
    with pytest.raises(ValueError, match="content_features are empty. Put Capture Self-Attention between"):
        pack.InjectStyleKV(model=model, content_features=none, style_features=features)
    with pytest.raises(ValueError, match="style_features are empty"):
        pack.InjectStyleKV(model=model, content_features=features, style_features=none)


def test_features_without_a_common_block(pack, model, inverted):
    (_, content, _), (_, style, _) = inverted
    first = with_steps(content, [step[:1] for step in content.source.steps])._replace(blocks=content.blocks[:1])
    last = with_steps(style, [step[-1:] for step in style.source.steps])._replace(blocks=style.blocks[-1:])
    with pytest.raises(ValueError, match="blocks output 6, style_features in output 11"):
        pack.InjectStyleKV(model=model, content_features=first, style_features=last)


def test_content_features_of_another_size(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    with pytest.raises(ValueError, match="captured from a latent of 16x24, and the latent being sampled is 16x16"):
        sample_custom(m, case.positive, sigmas, {"samples": noise["samples"][..., :16]})


def test_features_of_another_batch(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    pair = with_steps(style, [[n.repeat(2, 1, 1) for n in step] for step in style.source.steps])
    pair = pair._replace(latent=style.latent.repeat(2, 1, 1, 1))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=pair)
    with pytest.raises(ValueError, match="style_features hold 2 images and the latent being sampled holds 3"):
        sample_custom(m, case.positive, sigmas, {"samples": noise["samples"].repeat(3, 1, 1, 1)})


def test_features_of_a_wider_model(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    wider = with_steps(style, [[torch.cat([n, n], -1) for n in step] for step in style.source.steps])
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=wider)
    with pytest.raises(ValueError, match=r"output block 6 works on \[1, 96, 64\] .* style_features \[1, 96, 128\]. Capture them"):
        sample_custom(m, case.positive, sigmas, noise)


def test_hypertile_in_the_sampling(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [tiled] = HyperTile.execute(model, tile_size=32, swap_size=2, max_depth=0, scale_depth=False)
    [m] = pack.InjectStyleKV(model=tiled, content_features=content, style_features=style)
    with pytest.raises(ValueError, match="Another node cuts self-attention into tiles"):
        sample_custom(m, case.positive, sigmas, noise)


def test_sigmas_that_were_not_inverted(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    low = with_steps(style, style.source.steps[:2])._replace(sigmas=[sigma / 9 for sigma in style.sigmas[:2]])
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=low)
    with pytest.raises(ValueError, match="No features were captured near sigma .* in 2 steps. Sample with the sigmas of DDIM Invert"):
        sample_custom(m, case.positive, sigmas, noise)


@pytest.mark.parametrize(("settings", "sentence"), [
    (dict(start_percent=0.7, end_percent=0.7), "start_percent 0.7 is not below end_percent 0.7"),
    (dict(blocks="3,9"), 'blocks "3,9": output 3 were not captured. Choose from output 6-11'),
    (dict(blocks="style"), 'blocks "style": "style" is not a block number')])
def test_settings_that_leave_nothing_to_inject(pack, model, inverted, settings, sentence):
    (_, content, _), (_, style, _) = inverted
    with pytest.raises(ValueError, match=sentence):
        pack.InjectStyleKV(model=model, content_features=content, style_features=style, **settings)


@pytest.mark.parametrize(("settings", "sentence"), [
    (dict(start_percent=0.7, end_percent=0.7), "start_percent 0.7 is not below end_percent 0.7"),
    (dict(denoise=0.3, end_percent=0.5), "none of the sigmas that are sampled lies between start_percent 0 and end_percent 0.5")])
def test_settings_are_refused_before_anything_is_inverted(pack, inputs, calls, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        stylize(pack, **inputs | settings)
    assert not calls


def test_a_part_of_the_sampling_without_a_step(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, start_percent=0.9)
    with pytest.raises(ValueError, match="none of the sigmas that are sampled lies between start_percent 0.9 and end_percent 1. Widen"):
        sample_custom(m, case.positive, sigmas[:5], noise)


@pytest.mark.parametrize(("sampler", "refused"), [
    ("euler_ancestral", True), ("dpmpp_2m_sde", True), ("dpmpp_sde", True), ("ddpm", True), ("er_sde", True), ("seeds_2", True),
    ("euler", False), ("ddim", False), ("heun", False), ("dpmpp_2m", False), ("uni_pc", False)])
def test_stochastic_samplers(pack, model, case, inverted, sampler, refused):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    few = sigmas[[0, 2, 4, 5]]
    if refused:
        with pytest.raises(ValueError, match=f"The sampler {sampler} adds noise at every step .* Use a deterministic one"):
            sample_custom(m, case.positive, few, noise, sampler=sampler)
    else:
        assert sample_custom(m, case.positive, few, noise, sampler=sampler)["samples"].isfinite().all()


def test_nothing_injected(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    with pytest.raises(ValueError, match="No style was injected: the sampler called the model at 0 of 1 sigmas"):
        sample_custom(m, case.positive, sigmas[:1], noise)


def test_an_area_of_the_picture(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    area = [[case["context"], {"area": (8, 12, 0, 0), "strength": 1.0}]]
    with pytest.raises(ValueError, match="only a part of the picture"):
        sample_custom(m, area, sigmas, noise)


def test_several_conditionings_in_an_inversion(pack, model, case):
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
    with pytest.raises(ValueError, match="several are connected to positive"):
        pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive * 2, steps=3, schedule="ddim")


def test_fresh_noise_is_warned_about(pack, model, case, inverted, caplog):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    sample_custom(m, case.positive, sigmas[-3:], noise, add_noise=True)
    assert any("adds fresh noise" in message for message in caplog.messages)


def test_an_unused_mask_is_warned_about(pack, model, inputs, case, caplog):
    mask = {"noise_mask": torch.ones(1, 128, 192)}
    pack.StyleIDSampler(**inputs | {"style": case.style | mask})
    noise, _, _ = pack.DDIMInvert(model=model, latent=case.content | mask, positive=case.positive, steps=3, schedule="ddim")
    assert "noise_mask" not in noise, "a mask of the picture would mean something else on the noise"
    assert [message for message in caplog.messages if "mask" in message] == [
        "The mask of the style latent is not used: the whole picture is taken.",
        "The mask of the input latent is not used: the whole picture is taken."]


def test_guidance_without_a_negative(pack, inputs):
    with pytest.raises(ValueError, match="cfg 7 compares with a negative prompt, and none is connected. Connect negative, or set cfg to 1"):
        stylize(pack, **inputs, cfg=7.0)


def test_injection_into_a_side_that_the_sampler_will_not_evaluate(pack, inputs, calls):
    with pytest.raises(ValueError, match="inject_into is uncond, and at cfg 1 the negative prompt is not evaluated.* Raise cfg above 1"):
        stylize(pack, **inputs, inject_into="uncond")
    assert not calls


def test_a_mask_of_nan(pack, inputs, case, calls):
    with pytest.raises(ValueError, match="mask of the content latent contains NaN"):
        pack.StyleIDSampler(**inputs | {"content": case.content | {"noise_mask": torch.full((1, 16, 24), torch.nan)}})
    assert not calls


def test_features_that_do_not_fit(pack, inputs, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory(1e5))
    with pytest.raises(ValueError, match=r"features of 3 steps would take 0.000\d+ GB, and only 0.0001 GB of RAM .* Set feature_dtype"):
        pack.StyleIDSampler(**inputs)


@pytest.mark.parametrize("name", ["gamma", "temperature", "color_strength", "denoise", "cfg", "cfg_max_sigma", "start_percent"])
def test_settings_that_are_no_number(pack, inputs, calls, name):
    """A prompt can carry them past the widget's range."""
    with pytest.raises(ValueError, match=f"{name} is nan, which is not a number"):
        stylize(pack, **inputs | {name: float("nan")})
    assert not calls
