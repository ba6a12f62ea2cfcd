"""Injection beside other nodes in the graph: the paper's formulas on a model that has the other node must give the
same.
"""

import comfy.model_management
import pytest
import torch
from cases import relative_error
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel
from companions import COMPANY, first_output, with_lora

from nodes import ControlNetApplyAdvanced
from tools.demo.transfer import sample_custom
from tools.miniature.seeded import load_controlnet
from tools.miniature.unet import WIDE_HEADS, load_unet
from tools.pack import stylize
from tools.reference import paper_attention

SETTINGS = dict(gamma=0.6, temperature=1.3)


@pytest.fixture
def controlled(case):
    """The case's conditioning with a ControlNet in the real layout, with seeded weights."""
    hint = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(1))
    return ControlNetApplyAdvanced().apply_controlnet(case.positive, case.positive, load_controlnet(), hint, 0.5, 0.0,
                                                      1.0)[0]


@pytest.fixture
def compare(pack, case, inverted):
    """compare(model, other, positive): (error of the injection into `other`, difference to `model` with the case's
    conditioning).
    """
    def run(model, other, positive):
        (noise, content, sigmas), (_, style, _) = inverted
        [m] = pack.InjectStyleKV(model=other, content_features=content, style_features=style, **SETTINGS)
        [alone] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **SETTINGS)
        reference, injected = (sample_custom(patched, positive, sigmas, noise)["samples"]
                               for patched in (paper_attention(other, content, style, **SETTINGS), m))
        without = sample_custom(alone, case.positive, sigmas, noise)["samples"]
        return relative_error(injected, reference), relative_error(without, reference)

    return run


@pytest.mark.parametrize("company", COMPANY)
def test_nodes_that_patch_the_model(model, case, compare, company, record_property):
    error, difference = compare(model, COMPANY[company](model), case.positive)
    assert error < 1e-4
    assert difference > 5e-3, f"{company} makes no difference here"
    record_property("beside", ("ComfyUI", company, "composes"))


@pytest.mark.parametrize(("node", "settings"), [(PerturbedAttentionGuidance, [3.0]),
                                                (SelfAttentionGuidance, [0.5, 2.0])])
def test_guidance_is_left_out_of_the_inversion(pack, model, case, inverted, node, settings):
    guided = first_output(node.execute(model, *settings))
    noise, _, _ = pack.DDIMInvert(model=guided, latent=case.content, positive=case.positive, steps=case.steps,
                                  schedule="ddim")
    (plain, _, _), _ = inverted
    assert torch.equal(noise["samples"], plain["samples"])


def test_controlnet_on_the_sampling(model, controlled, compare, record_property):
    error, difference = compare(model, model, controlled)
    assert error < 1e-4
    assert difference > 1e-2, "the ControlNet makes no difference here"
    record_property("beside", ("ComfyUI", "ControlNet", "composes"))


def test_controlnet_on_the_inversion_too(pack, model, case, controlled):
    inputs = dict(model=model, content=case.content, style=case.style, steps=3, schedule="ddim")
    result, plain = (stylize(pack, positive=given, **inputs)["samples"] for given in (controlled, case.positive))
    assert result.isfinite().all() and not torch.allclose(result, plain)


def test_token_merging_gets_the_mixed_query_and_leaves_the_style_whole(
        pack, pack_module, model, case, inverted, record_property):
    """ToMe merges at random, so its result is not compared; what reaches its patch and what attention gets is."""
    (noise, content, sigmas), (_, style, _) = inverted
    merged = first_output(TomePatchModel.execute(model, 0.3))
    seen = []

    def look(n, context, value, extra_options):
        if extra_options["block"] == ("output", 9):
            seen.append((n, context))
        return n, context, value

    around = model.clone()
    around.set_model_attn1_patch(look)
    around.set_model_attn1_patch(merged.model_options["transformer_options"]["patches"]["attn1_patch"][0])
    around.set_model_attn1_patch(look)
    around.set_model_attn1_output_patch(merged.model_options["transformer_options"]["patches"]["attn1_output_patch"][0])
    [m] = pack.InjectStyleKV(model=around, content_features=content, style_features=style, gamma=1.0, temperature=1.0)
    assert sample_custom(m, case.positive, sigmas[:2], noise)["samples"].isfinite().all()
    reader = pack_module("styleid_core.features").Reader
    block, sigma = ("output", 9, 0), float(sigmas[0])
    (before, context_before), (after, context_after) = seen
    assert torch.equal(before, reader(content, before.device).read(sigma)[block]) and after.shape[1] < before.shape[1]
    assert torch.equal(context_before, reader(style, before.device).read(sigma)[block])
    assert torch.equal(context_after, context_before)
    record_property("beside", ("ComfyUI", "TomePatchModel", "composes: the style's keys stay whole"))


def test_self_attention_guidance(pack, model, case, inverted, record_property):
    (noise, content, sigmas), (_, style, _) = inverted
    guided = first_output(SelfAttentionGuidance.execute(model, 0.5, 2.0))
    [m] = pack.InjectStyleKV(model=guided, content_features=content, style_features=style)
    [alone] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    results = [sample_custom(patched, case.positive, sigmas, noise, cfg=2.0)["samples"] for patched in (m, alone)]
    assert results[0].isfinite().all() and not torch.allclose(*results)
    record_property("beside", ("ComfyUI", "SelfAttentionGuidance", "works, on its own terms"))


def test_an_attention_backend_of_another_pack_sees_every_call(pack, model, case, inverted, record_property):
    (noise, content, sigmas), (_, style, _) = inverted
    calls = []

    def backend(attention, *args, **kwargs):
        calls.append(kwargs["transformer_options"]["block"])
        return attention(*args, **kwargs)

    watched = model.clone()
    watched.model_options["transformer_options"]["optimized_attention_override"] = backend
    plain = sample_custom(watched, case.positive, sigmas[:3], noise)
    seen_plain, calls[:] = list(calls), []
    [m] = pack.InjectStyleKV(model=watched, content_features=content, style_features=style)
    injected = sample_custom(m, case.positive, sigmas[:3], noise)
    # Two model calls, and self- and cross-attention in each of 16 blocks.
    assert calls == seen_plain and len(calls) == 2 * 2 * 16
    assert not torch.allclose(plain["samples"], injected["samples"])
    record_property("beside", ("any", "attention backends (optimized_attention_override)", "see every call"))


@pytest.mark.parametrize(("captured", "sampled"), [(True, False), (False, True), (True, True)])
def test_lora_where_the_user_puts_it(pack, model, case, captured, sampled):
    """Before the capture, before the sampling, or both: as a model whose weights were changed for good, in the
    precision of ComfyUI's LoRAs.
    """
    merged, device = load_unet(unet_config=WIDE_HEADS), comfy.model_management.get_torch_device()
    precision = dict(device=device, dtype=comfy.model_management.lora_compute_dtype(device))
    patches = with_lora(model).patches
    for name, [(_, adapter, *_)] in patches.items():
        up, down, alpha, *_ = adapter.weights
        weight = merged.model.get_parameter(name.removesuffix(".weight") + ".weight")
        change = up.to(**precision) @ down.to(**precision)
        weight.data += change.to(weight) * (1.0 if alpha is None else alpha / down.shape[0])

    def transfer(with_style):
        recording, sampling = (with_style if wanted else model for wanted in (captured, sampled))
        [recording] = pack.CaptureSelfAttention(model=recording, blocks="6-11")
        (noise, content, sigmas), (_, style, _) = (
            pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=4, schedule="ddim")
            for latent in (case.content, case.style))
        [m] = pack.InjectStyleKV(model=sampling, content_features=content, style_features=style)
        return sample_custom(m, case.positive, sigmas, noise)["samples"]

    expected = transfer(merged)
    assert relative_error(transfer(with_lora(model)), expected) < 1e-4
    assert relative_error(transfer(model), expected) > 1e-3
    assert len(patches) == 3 * 9, "the projections of nine self-attentions"
