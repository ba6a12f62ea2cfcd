"""Every mistake stops with a ValueError that names the value and says what to change."""

import re

import comfy.model_management
import comfy.supported_models
import pytest
import torch
from cases import free_memory, with_steps
from comfy.nested_tensor import NestedTensor
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingSD3

import nodes
from tools.demo.transfer import sample_custom
from tools.miniature.transformers import load_transformer
from tools.miniature.unet import UNET, load_unet, new_unet
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


@pytest.mark.parametrize("blocks", ["6–11", "6 — 11", "AUTO", "6-11\n", "6-11,", "Output 6-8; output 9-11",
                                    "6-8\n9-11"])
def test_blocks_as_people_write_them(pack, model, case, blocks):
    [recording] = pack.CaptureSelfAttention(model=model, blocks=blocks)
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2,
                                     schedule="ddim")
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
    ((1, 16, 16, 24), "The content latent has 4 channels and the style latent 16. Encode both with the VAE of the "
                      "same"),
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
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2,
                                     schedule="ddim")
    other = load_unet(weight_seed=1)
    with pytest.raises(ValueError, match="content_features are recomputed, by a model that was not the one that is "
                                         "sampled. Invert with"):
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


@pytest.fixture(scope="module")
def video_unet():
    """ComfyUI's own Stable Video Diffusion, without the size."""
    unet = UNET | dict(in_channels=8, adm_in_channels=768, num_classes="sequential", use_linear_in_transformer=True,
                       use_temporal_attention=True, use_temporal_resblock=True, extra_ff_mix_layer=True,
                       merge_strategy="learned_with_images", merge_factor=0.0, video_kernel_size=[3, 1, 1])
    return new_unet(unet, comfy.supported_models.SVD_img2vid)


def test_a_unet_of_videos(pack, video_unet):
    with pytest.raises(ValueError, match="this model is a UNetModel with attention over time, as models of videos have "
                                         "it"):
        pack.CaptureSelfAttention(model=video_unet)


def test_ming_image_is_not_taken_for_z_image(pack):
    model = load_transformer("z_image")
    model.model.diffusion_model.masked_pad_multiple = 32
    with pytest.raises(ValueError, match="this model is a NextDiT with references behind its picture, as Ming-Image "
                                         "has them"):
        pack.CaptureSelfAttention(model=model)
    model.model.diffusion_model.masked_pad_multiple = None  # as newer hosts have it in a Z-Image
    pack.CaptureSelfAttention(model=model)


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
    with pytest.raises(ValueError,
                       match=r"output block 6 works on \[1, 96, 64\] .* style_features \[1, 96, 128\]. Capture them"):
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
    with pytest.raises(ValueError, match="No features were captured near sigma .* in 2 steps. Sample with the sigmas "
                                         "of DDIM Invert"):
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
    (dict(denoise=0.3, end_percent=0.5), "none of the sigmas that are sampled lies between start_percent 0 and "
                                         "end_percent 0.5")])
def test_settings_are_refused_before_anything_is_inverted(pack, inputs, calls, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        stylize(pack, **inputs | settings)
    assert not calls


def test_a_part_of_the_sampling_without_a_step(pack, model, case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, start_percent=0.9)
    with pytest.raises(ValueError, match="none of the sigmas that are sampled lies between start_percent 0.9 and "
                                         "end_percent 1. Widen"):
        sample_custom(m, case.positive, sigmas[:5], noise)


@pytest.mark.parametrize(("sampler", "refused"), [
    ("euler_ancestral", True), ("dpmpp_2m_sde", True), ("dpmpp_sde", True), ("ddpm", True), ("er_sde", True),
    ("seeds_2", True), ("euler", False), ("ddim", False), ("heun", False), ("dpmpp_2m", False), ("uni_pc", False)])
def test_stochastic_samplers(pack, model, case, inverted, sampler, refused):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    few = sigmas[[0, 2, 4, 5]]
    if refused:
        with pytest.raises(ValueError, match=f"The sampler {sampler} adds noise at every step .* Use a deterministic "
                                             "one"):
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


@pytest.mark.parametrize("part", [slice(None), slice(-3, None)])
def test_fresh_noise(pack, model, case, inverted, part):
    """At the start, and where a sampling in two parts goes on."""
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    with pytest.raises(ValueError, match="The sampler adds fresh noise, which loses the content .* Turn it off"):
        sample_custom(m, case.positive, sigmas[part], noise, add_noise=True)
    with pytest.raises(ValueError, match="Turn it off"):
        nodes.KSampler().sample(m, 0, 5, 1.0, "euler", "ddim_uniform", case.positive, case.positive, noise, denoise=1.0)


def test_noise_on_the_contents_own_latent(pack, model, case, inverted):
    """A denoise below 1 of the host's own is what who wants it means; pure noise has no content."""
    (_, content, _), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)

    def run(denoise):
        return nodes.KSampler().sample(m, 0, 5, 1.0, "euler", "ddim_uniform", case.positive, case.positive,
                                       case.content, denoise=denoise)[0]["samples"]

    assert run(0.6).isfinite().all()
    with pytest.raises(ValueError, match="the content's own latent and a denoise below 1"):
        run(1.0)


def test_an_unused_mask_is_warned_about(pack, model, inputs, case, caplog):
    mask = {"noise_mask": torch.ones(1, 128, 192)}
    pack.StyleIDSampler(**inputs | {"style": case.style | mask})
    noise, _, _ = pack.DDIMInvert(model=model, latent=case.content | mask, positive=case.positive, steps=3,
                                  schedule="ddim")
    assert "noise_mask" not in noise, "a mask of the picture would mean something else on the noise"
    assert [message for message in caplog.messages if "mask" in message] == [
        "The mask of the style latent is not used: the whole picture is taken.",
        "The mask of the input latent is not used: the whole picture is taken."]


def test_guidance_without_a_negative(pack, inputs):
    with pytest.raises(ValueError, match="cfg 7 compares with a negative prompt, and none is connected. Connect "
                                         "negative, or set cfg to 1"):
        stylize(pack, **inputs, cfg=7.0)


def test_injection_into_a_side_that_the_sampler_will_not_evaluate(pack, inputs, calls):
    with pytest.raises(ValueError, match="inject_into is uncond, and at cfg 1 the negative prompt is not evaluated.* "
                                         "Raise cfg above 1"):
        stylize(pack, **inputs, inject_into="uncond")
    assert not calls


@pytest.mark.parametrize(("mask", "told"), [(torch.full((1, 16, 24), torch.nan), "contains NaN"),
                                            (torch.zeros(0, 16, 24), "is empty")])
def test_a_mask_that_is_none(pack, inputs, case, calls, mask, told):
    with pytest.raises(ValueError, match=f"mask of the content latent {told}"):
        pack.StyleIDSampler(**inputs | {"content": case.content | {"noise_mask": mask}})
    assert not calls


def test_features_that_do_not_fit(pack, inputs, monkeypatch):
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory(1e5))
    told = r"features of 3 steps would take 0.000\d+ GB, and only 0.0001 GB of RAM .* Set feature_dtype"
    with pytest.raises(ValueError, match=told):
        pack.StyleIDSampler(**inputs)


@pytest.mark.parametrize("name", ["gamma", "temperature", "color_strength", "denoise", "cfg", "cfg_max_sigma",
                                  "start_percent"])
def test_settings_that_are_no_number(pack, inputs, calls, name):
    """A prompt can carry them past the widget's range."""
    with pytest.raises(ValueError, match=f"{name} is nan, which is not a number"):
        stylize(pack, **inputs | {name: float("nan")})
    assert not calls


# What a prompt can carry past the page

@pytest.fixture
def wired(inputs, inverted):
    """By node: inputs that it takes."""
    (noise, content, sigmas), (_, style, _) = inverted
    return {"StyleIDSampler": inputs,
            "CaptureSelfAttention": dict(model=inputs["model"]),
            "DDIMInvert": dict(model=inputs["model"], latent=inputs["content"], positive=inputs["positive"], steps=2),
            "LatentAdaIN": dict(content=noise, style=noise),
            "InjectStyleKV": dict(model=inputs["model"], content_features=content, style_features=style),
            "StyleIDOptions": {},
            "StyleIDPositions": dict(model=inputs["model"]),
            "StyleIDStartFrequencies": dict(noise=noise),
            "SaveStyleIDFeatures": dict(noise=noise, features=content, sigmas=sigmas)}


@pytest.mark.parametrize(("node", "name", "literal"), [
    ("StyleIDSampler", "options", "fast"), ("StyleIDSampler", "style_features", 3), ("StyleIDSampler", "model", "sd15"),
    ("StyleIDSampler", "content", {}), ("StyleIDSampler", "positive", "a cat"), ("CaptureSelfAttention", "model", 1),
    ("DDIMInvert", "latent", "photo.png"), ("LatentAdaIN", "mask", 0.5), ("InjectStyleKV", "content_features", 3),
    ("InjectStyleKV", "gamma_curve", 0.5), ("InjectStyleKV", "mask", "left"), ("StyleIDOptions", "negative", "ugly"),
    ("StyleIDOptions", "temperature_curve", 1), ("StyleIDPositions", "model", None),
    ("StyleIDStartFrequencies", "noise", 1), ("SaveStyleIDFeatures", "sigmas", [1.0, 0.0]),
    ("SaveStyleIDFeatures", "image", "photo.png")])
def test_a_literal_where_a_link_belongs(pack, wired, calls, node, name, literal):
    calls.clear()
    with pytest.raises(ValueError, match=f"The input {name} is .*, and a link of the type [A-Z_]* belongs there. "
                                         "Connect one."):
        getattr(pack, node)(**wired[node] | {name: literal})
    assert not calls


@pytest.mark.parametrize(("node", "name", "value", "sentence"), [
    ("StyleIDSampler", "steps", 0, "steps is 0. Set it to one from 1 to 1000"),
    ("StyleIDSampler", "gamma", "high", 'gamma is "high", and its type is FLOAT'),
    ("StyleIDSampler", "schedule", "exponential?", "Choose from official, ddim"),
    ("DDIMInvert", "denoise", 0.0, "denoise is 0. Set it to one from 0.001 to 1"),
    ("InjectStyleKV", "weight", 2, "weight is 2. Set it to one from 0 to 1"),
    ("InjectStyleKV", "auto_temperature", "yes", "its type is BOOLEAN"),
    ("CaptureSelfAttention", "feature_device", "tpu", "Choose from auto, gpu, cpu, recompute")])
def test_a_link_that_brings_another_value(pack, wired, calls, node, name, value, sentence):
    """ComfyUI looks at widgets, and not at what a link brings them."""
    calls.clear()
    with pytest.raises(ValueError, match=f"The setting {name} is .*{re.escape(sentence)}|{re.escape(sentence)}"):
        getattr(pack, node)(**wired[node] | {name: value})
    assert not calls


def test_an_input_of_an_older_version(pack, inputs, case):
    """As a link of a graph of 0.1.0 brings it."""
    with pytest.raises(ValueError, match="There is no input negative in StyleID Sampler: the graph was made with "
                                         "another version"):
        pack.StyleIDSampler(**inputs, negative=case.positive)


@pytest.mark.parametrize("node", ["StyleIDSampler", "DDIMInvert", "LatentAdaIN", "StyleIDStartFrequencies",
                                  "SaveStyleIDFeatures"])
def test_a_video_with_its_sound(pack, wired, node):
    z = wired["DDIMInvert"]["latent"]["samples"]
    both = {"samples": NestedTensor([z[:, :, None], torch.randn(1, 8, 6)])}
    [name] = {"latent", "content", "noise"} & wired[node].keys()
    with pytest.raises(ValueError, match="latent holds several parts, as a video with its sound does. Connect a "
                                         "picture"):
        getattr(pack, node)(**wired[node] | {name: both})


@pytest.mark.parametrize(("node", "name"), [("LatentAdaIN", "style_mask"), ("InjectStyleKV", "mask")])
def test_a_mask_of_several_parts(pack, wired, inputs, case, node, name):
    several = NestedTensor([torch.ones(1, 8, 8), torch.ones(1, 6)])
    with pytest.raises(ValueError, match=f"The input {name} is a NestedTensor, and a link of the type MASK belongs "
                                         "there"):
        getattr(pack, node)(**wired[node] | {name: several})
    with pytest.raises(ValueError, match="mask of the content latent holds several parts"):
        pack.StyleIDSampler(**inputs | {"content": case.content | {"noise_mask": several}})
