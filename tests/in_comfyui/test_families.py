"""Injection in the layouts of several UNet families, reduced in width and not in structure, against the paper's formulas.

The reference goes another way than the pack: attn1_replace on projected q, k and v, with eq. 5-7 and the softmax written out.
"""

import comfy.supported_models
import pytest
import torch
from comfy.model_base import ModelType

from demo.styleid_demo.unet import CONTEXT_DIM, UNET, load_unet

STEPS, GAMMA, TAU = 5, 0.6, 1.3

LINEAR = UNET | dict(num_heads=-1, num_head_channels=8, use_linear_in_transformer=True)
SDXL = LINEAR | dict(num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 3, 3],
                     transformer_depth_output=[0, 0, 0, 2, 2, 2, 3, 3, 3], transformer_depth_middle=3,
                     num_classes="sequential", adm_in_channels=2816)


class SD20V(comfy.supported_models.SD20):
    """An SD 2.x checkpoint with v-prediction, which ComfyUI otherwise tells by trained weights."""

    def model_type(self, state_dict, prefix=""):
        return ModelType.V_PREDICTION


FAMILIES = {
    "sd1": (comfy.supported_models.SD15, UNET, "6-11", 6),
    "sd1_inpaint": (comfy.supported_models.SD15, UNET | dict(in_channels=9), "6-11", 6),
    "sd2": (comfy.supported_models.SD20, LINEAR, "6-11", 6),
    "sd2_v": (SD20V, LINEAR, "6-11", 6),
    "sdxl": (comfy.supported_models.SDXL, SDXL, "2-5", 3 + 3 * 2),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    """(MODEL, layers, how many self-attentions those are)."""
    supported, unet, layers, count = FAMILIES[request.param]
    return load_unet(unet_config=unet, family=supported), layers, count


@pytest.fixture
def transfer_inputs():
    generator = torch.Generator().manual_seed(3)
    content, style = (torch.randn(shape, generator=generator) for shape in ((1, 4, 16, 24), (1, 4, 24, 16)))
    context, pooled = (torch.randn(shape, generator=generator) for shape in ((1, 7, CONTEXT_DIM), (1, 1280)))
    return {"samples": content}, {"samples": style}, [[context, {"pooled_output": pooled}]]


def paper_attention(model, content_features, style_features):
    """A clone of MODEL whose own attn1_replace does what InjectStyleKV promises."""
    m = model.clone()
    for index, (side, number, transformer) in enumerate(style_features.blocks):
        [spatial] = (layer for layer in model.model.diffusion_model.output_blocks[number] if hasattr(layer, "transformer_blocks"))
        attn1 = spatial.transformer_blocks[transformer].attn1

        def replace(q, k, v, extra_options, index=index, attn1=attn1):
            step = int((torch.tensor(style_features.sigmas) - extra_options["sigmas"][0]).abs().argmin())
            n_content, n_style = content_features.steps[step][index], style_features.steps[step][index]
            q = TAU * (GAMMA * attn1.to_q(n_content) + (1 - GAMMA) * q)
            q, k, v = (t.unflatten(-1, (attn1.heads, -1)).movedim(-2, -3) for t in (q, attn1.to_k(n_style), attn1.to_v(n_style)))
            return ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).movedim(-3, -2).flatten(-2)

        m.set_model_attn1_replace(replace, side, number, transformer)
    return m


def test_injection_is_the_papers_attention(pack, family, transfer_inputs, sample_custom, relative_error):
    model, layers, count = family
    content, style, positive = transfer_inputs
    [recording] = pack.CaptureSelfAttention(model=model, layers=layers)
    (noise, content_features, sigmas), (style_noise, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=positive, steps=STEPS, schedule="ddim") for latent in (content, style))
    assert len(style_features.blocks) == count
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features, gamma=GAMMA, temperature=TAU)

    reference, injected, plain = (sample_custom(patched, positive, sigmas, start)["samples"]
                                  for patched in (paper_attention(model, content_features, style_features), m, model))
    assert relative_error(injected, reference) < 1e-4
    assert relative_error(plain, reference) > 1e-2, "the injection makes no difference here"

    [one_node] = pack.StyleIDSampler(model=model, content=content, style=style, positive=positive, steps=STEPS, gamma=GAMMA,
                                     temperature=TAU, layers=layers, schedule="ddim")
    assert relative_error(one_node["samples"], reference) < 1e-4
