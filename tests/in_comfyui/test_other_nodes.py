"""Nodes that go to the same place as the injection: right beside it, or refused in the inversion or the sampling, never
silent.
"""

import math
from functools import partial

import comfy.hooks
import comfy.k_diffusion.sampling
import comfy.samplers
import pytest
import torch
from cases import relative_error, with_steps
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_hypertile import HyperTile
from companions import first_output

from tools.campaign.transfers import small_model
from tools.demo.transfer import sample_custom
from tools.miniature.unet import seeded_tensor
from tools.reference import paper_attention

SETTINGS = dict(gamma=0.6, temperature=1.3)


@pytest.fixture
def injected(pack, inverted):
    """injected(model): the model with the features of the case."""
    (_, content, _), (_, style, _) = inverted
    return lambda model: pack.InjectStyleKV(model=model, content_features=content, style_features=style, **SETTINGS)[0]


@pytest.fixture
def run(case, inverted):
    """run(model, steps): the latent after some steps from the inverted content."""
    (noise, _, sigmas), _ = inverted
    return lambda model, steps=4, **options: sample_custom(model, case.positive, sigmas[:steps + 1], noise,
                                                           **options)["samples"]


# Samplers


def test_every_sampler_of_comfyui_is_told_apart(pack_module, model, inverted, record_property):
    """Those that draw noise have a parameter for it; of these only res_multistep's plain form and dpm_fast never use
    it.
    """
    (_, _, sigmas), _ = inverted
    adds_noise = pack_module("nodes.engine.samplers").adds_noise
    told = {True: [], False: []}
    for name in comfy.samplers.SAMPLER_NAMES:
        expected = any(kind in name for kind in ("ancestral", "sde", "ddpm", "lcm", "seeds", "sa_solver"))
        assert adds_noise(model, 1.0, comfy.samplers.sampler_object(name), sigmas) is expected, name
        told[expected].append(name)
    record_property("beside", ("ComfyUI", f"samplers {', '.join(told[False])}", "accepted: they add no noise"))
    record_property("beside", ("ComfyUI", f"samplers {', '.join(told[True])}", "refused: they add noise"))


def churning(model, x, sigmas, **kwargs):
    """As a pack that wraps a sampler: noise in a small part of the sigmas only."""
    return comfy.k_diffusion.sampling.sample_euler(model, x, sigmas, s_churn=1.0, s_tmin=0.5, s_tmax=0.6, **kwargs)


def unknown(model, x, sigmas, eta=0.5, **kwargs):
    return comfy.k_diffusion.sampling.sample_euler(model.inner_model.of_this_pack_only, x, sigmas, **kwargs)


@pytest.mark.parametrize(("sampler", "sentence"), [
    (comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_euler, {"s_churn": 2.0}),
     "euler adds noise .* Set s_churn to 0, or use"),
    (comfy.samplers.KSAMPLER(partial(comfy.k_diffusion.sampling.sample_lcm)),
     "lcm adds noise .* Use a deterministic one"),
    (comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_dpmpp_2m_sde, {"eta": 0.7}),
     "2m_sde adds noise .* Set eta to 0, or use"),
    (comfy.samplers.KSAMPLER(churning), "churning adds noise"),
    (comfy.samplers.KSAMPLER(unknown, {"eta": 0.5}), "unknown adds noise .* Set eta to 0")])
def test_samplers_that_add_noise(pack, case, inverted, injected, model, sampler, sentence):
    (noise, _, sigmas), _ = inverted
    with pytest.raises(ValueError, match=sentence):
        comfy.sample.sample_custom(injected(model), torch.zeros_like(noise["samples"]), 1.0, sampler, sigmas,
                                   case.positive, case.positive, noise["samples"])


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"eta": 0.7, "s_noise": 0.0}])
def test_samplers_whose_noise_is_turned_off(pack_module, model, inverted, options):
    (_, _, sigmas), _ = inverted
    sampler = comfy.samplers.KSAMPLER(comfy.k_diffusion.sampling.sample_euler_ancestral, options)
    # Without its noise, but with eta, euler_ancestral steps too far down: no noise, and still a path of its own.
    assert pack_module("nodes.engine.samplers").adds_noise(model, 1.0, sampler, sigmas) is False


def test_a_sampler_that_cannot_be_tried_is_told(pack_module, model, inverted, caplog):
    (_, _, sigmas), _ = inverted
    pack_module("nodes.engine.samplers").check_sampler(model, 1.0, comfy.samplers.KSAMPLER(unknown), sigmas)
    assert "The sampler unknown cannot be tried without a picture. It must add no noise on the way." in caplog.messages


# torch.compile

@pytest.mark.full
def test_compiled_models_see_every_change(pack, case, record_property):
    """gamma, plain runs and inversions in turn give what they do uncompiled, and each is compiled once."""
    model, graphs = small_model(), []

    def backend(graph, inputs, **options):
        graphs.append(graph)
        return graph.forward

    def past_the_options(entries):
        return ["transformer_options" not in entry.name for entry in entries]

    compiled = model.clone()
    set_torch_compile_wrapper(model=compiled, backend=backend, options={"guard_filter_fn": past_the_options})

    def inversion(base, latent):
        [recording] = pack.CaptureSelfAttention(model=base)
        return pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=2, schedule="ddim")

    (noise, content, sigmas), (_, style, _) = (inversion(model, latent) for latent in (case.content, case.style))

    def run(base):
        return sample_custom(base, case.positive, sigmas, noise)["samples"]

    def inject(base, gamma):
        return pack.InjectStyleKV(model=base, content_features=content, style_features=style, gamma=gamma)[0]

    made = []
    for gamma in (0.6, None, 0.0, 0.6, 0.3, None):
        results = (run(base if gamma is None else inject(base, gamma)) for base in (compiled, model))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
        made.append(len(graphs))
    for latent in (case.content, case.style):
        inverted = (inversion(base, latent) for base in (compiled, model))
        results = ([noise["samples"], features.source.steps] for noise, features, _ in inverted)
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
        made.append(len(graphs))
    torch.compiler.reset()
    assert made == [1, 2, 2, 2, 2, 2, 3, 3]
    record_property("beside", ("ComfyUI", "TorchCompileModel", "composes; injected and recorded runs have compiled "
                                                               "graphs of their own"))


# Caches of model calls

@pytest.mark.parametrize("device", ["auto", "recompute"])
@pytest.mark.parametrize("cache", [EasyCacheNode, LazyCacheNode])
def test_an_inversion_leaves_no_step_out(pack, model, case, inverted, cache, device, record_property):
    cached = first_output(cache.execute(model, 3.0, 0.0, 1.0, False))
    [recording] = pack.CaptureSelfAttention(model=cached, blocks="6-11", feature_device=device)
    noise, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive,
                                         steps=case.steps, schedule="ddim")
    (plain, content, _), _ = inverted
    assert relative_error(noise["samples"], plain["samples"]) < 1e-6 and features.sigmas == content.sigmas
    record_property("beside", ("ComfyUI", cache.__name__.removesuffix("Node"), "left out of an inversion"))


def test_another_cache_in_an_inversion_is_refused(pack, model, case):
    calls = []

    def every_other(executor, *args, **kwargs):
        calls.append(None)
        return executor(*args, **kwargs) if len(calls) % 2 else torch.zeros_like(args[0])

    cached = model.clone()
    cached.add_wrapper("diffusion_model", every_other)
    [recording] = pack.CaptureSelfAttention(model=cached, blocks="6-11")
    with pytest.raises(ValueError, match="called the model at 2 of 4 steps: another node left the others out"):
        pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=4, schedule="ddim")


# Attention that others replace, or cut into tiles

def hand_on(q, k, v, extra_options, mask=None):
    """PAG: every token attends to itself."""
    return v


def test_perturbed_attention_in_an_injected_block(pack, model, inverted, run, record_property):
    """It hands on the picture's own values, and the style of another size fits beside them."""
    (_, content, _), (_, style, _) = inverted
    half = with_steps(style, [[n[:, :n.shape[1] // 2] for n in step] for step in style.source.steps])
    perturbed = model.clone()
    perturbed.set_model_attn1_replace(hand_on, "output", 9)
    [m] = pack.InjectStyleKV(model=perturbed, content_features=content, style_features=half, **SETTINGS)
    reference = paper_attention(model, content, half, **SETTINGS)
    expected = run(reference)
    reference.set_model_attn1_replace(hand_on, "output", 9, 0)
    assert relative_error(run(m), run(reference)) < 1e-4
    assert relative_error(run(m), expected) > 1e-2
    record_property("beside", ("any", "perturbed attention (PAG) in an injected block",
                               "composes, with the picture's own values"))


def test_attention_that_is_replaced_but_not_perturbed(model, inverted, injected, run):
    """Such as SEG's: it gets the style's keys and values, and the mixed query."""
    replaced = model.clone()
    heads = model.model.diffusion_model.output_blocks[9][1].transformer_blocks[0].attn1.heads

    def plain(q, k, v, extra_options):
        q, k, v = (t.unflatten(-1, (heads, -1)).movedim(-2, -3) for t in (q, k, v))
        return ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v).movedim(-3, -2).flatten(-2)

    replaced.set_model_attn1_replace(plain, "output", 9)
    assert relative_error(run(injected(replaced)), run(injected(model))) < 1e-5


def windows(n, context, value, extra_options):
    """As MSW-MSA in the decoder: queries, keys and values in four windows."""
    if extra_options["block"][0] != "output" or extra_options["block"][1] < 6:
        return n, context, value
    return tuple(t.unflatten(1, (4, -1)).flatten(0, 1) for t in (n, context, value))


def test_windows_of_attention_are_refused(pack, model, case, injected, run, record_property):
    windowed = model.clone()
    windowed.set_model_attn1_patch(windows)
    with pytest.raises(ValueError, match="cuts self-attention into tiles"):
        run(injected(windowed))
    [tiled] = HyperTile.execute(model, tile_size=32, swap_size=2, max_depth=0, scale_depth=False)
    for other in (windowed, tiled):
        [recording] = pack.CaptureSelfAttention(model=other, blocks="6-11")
        with pytest.raises(ValueError, match="cuts self-attention into tiles .* Remove it from the model that is "
                                             "inverted"):
            pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2, schedule="ddim")
    record_property("beside", ("ComfyUI", "HyperTile", "refused: cuts self-attention into tiles"))


@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_an_inversion_of_tiles_is_refused(pack, model, case, device):
    """As Tiled Diffusion calls the model: all tiles as one batch."""
    def tiles(apply_model, args):
        parts = torch.cat(args["input"].chunk(2, -1))
        out = apply_model(parts, args["timestep"].repeat(2),
                          **args["c"] | {"c_crossattn": args["c"]["c_crossattn"].repeat(2, 1, 1)})
        return torch.cat(out.chunk(2), -1)

    tiled = model.clone()
    tiled.set_model_unet_function_wrapper(tiles)
    [recording] = pack.CaptureSelfAttention(model=tiled, blocks="6-11", feature_device=device)
    with pytest.raises(ValueError, match="needs the whole picture in one model call .* for tiles"):
        pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2, schedule="ddim")


# What an inversion had, and its recomputing would not

def test_recomputing_an_inversion_that_another_node_wrapped_is_refused(pack, model, case):
    wrapped = model.clone()
    wrapped.add_wrapper("diffusion_model", lambda executor, *args, **kwargs: executor(*args, **kwargs) * 1.01)
    [recording] = pack.CaptureSelfAttention(model=wrapped, blocks="6-11", feature_device="recompute")
    with pytest.raises(ValueError, match="feature_device recompute cannot repeat what another node adds to the model "
                                         "calls"):
        pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2, schedule="ddim")


@pytest.fixture
def hooked(model, case):
    """The case's prompt with a LoRA as its hook."""
    name = "lora_unet_output_blocks_9_1_transformer_blocks_0_attn1_to_v"
    width = model.model.diffusion_model.output_blocks[9][1].transformer_blocks[0].attn1.to_v.in_features
    lora = {f"{name}.lora_down.weight": seeded_tensor("down", (2, width), 1, 1.0),
            f"{name}.lora_up.weight": seeded_tensor("up", (width, 2), 1, 1.0)}
    return comfy.hooks.set_hooks_for_conditioning(case.positive, comfy.hooks.create_hook_lora(lora, 1.0, 0.0))


@pytest.fixture
def transfer(pack, model, case):
    """transfer(device, inverted_with, sampled_with): the latent of five nodes with these prompts."""
    def run(device, inverted_with, sampled_with):
        [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device=device)
        (noise, content, sigmas), (_, style, _) = (
            pack.DDIMInvert(model=recording, latent=latent, positive=inverted_with, steps=3, schedule="ddim")
            for latent in (case.content, case.style))
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **SETTINGS)
        return sample_custom(m, sampled_with, sigmas, noise)["samples"]

    return run


def test_recomputing_with_the_same_lora_hooks(hooked, case, transfer, record_property):
    assert relative_error(transfer("recompute", hooked, hooked), transfer("auto", hooked, hooked)) < 1e-4
    assert relative_error(transfer("auto", hooked, hooked), transfer("auto", case.positive, case.positive)) > 1e-3
    record_property("beside", ("ComfyUI", "LoRA hooks of prompts",
                               "compose; recompute needs the same in inversion and sampling"))


@pytest.mark.parametrize("inversion_has_it", [True, False])
def test_recomputing_with_lora_hooks_on_one_side_is_refused(hooked, case, transfer, inversion_has_it):
    prompts = (hooked, case.positive) if inversion_has_it else (case.positive, hooked)
    assert transfer("auto", *prompts).isfinite().all()
    with pytest.raises(ValueError, match="recomputed, and the prompts of inversion and sampling have different LoRA "
                                         "hooks"):
        transfer("recompute", *prompts)


# Masks and classes

def test_differential_diffusion_is_told_to_have_no_effect(pack, model, case, injected, inverted, caplog,
                                                          record_property):
    (noise, _, sigmas), _ = inverted
    soft = torch.linspace(0, 1, 24).expand(1, 16, 24)
    m = injected(first_output(DifferentialDiffusion.execute(model, 1.0)))
    masked = noise | {"noise_mask": soft}
    results = [sample_custom(each, case.positive, sigmas[-3:], masked)["samples"] for each in (m, injected(model))]
    assert torch.equal(*results)
    told = "Differential Diffusion has no effect beside the injection: the mask is blended in once, at the end."
    assert told in caplog.messages
    record_property("beside", ("ComfyUI", "DifferentialDiffusion", "has no effect, and is told so"))


def test_a_unet_whose_class_another_pack_exchanges(pack, case, model, run, injected):
    """As RES4LYF does, by an object patch that also shows on plain clones while it is loaded."""
    class OtherUNet(torch.nn.Module):
        forward, _forward, dtype = UNetModel.forward, UNetModel._forward, torch.float32

    expected = run(injected(model))
    model.model.diffusion_model.__class__ = OtherUNet
    try:
        assert torch.equal(run(injected(model)), expected)
    finally:
        model.model.diffusion_model.__class__ = UNetModel
