"""Injection in the layouts of several UNet families, reduced in width and not in structure, against the paper's
formulas.
"""

import comfy.supported_models
import pytest
import torch
from cases import relative_error
from comfy.model_base import ModelType
from companions import COMPANY

from styleid_core.storage import size
from tools.demo.transfer import sample_custom
from tools.miniature.seeded import LINEAR, SDXL
from tools.miniature.unet import CONTEXT_DIM, load_unet
from tools.miniature.unet import WIDE_HEADS as SD1
from tools.pack import stylize
from tools.reference import paper_attention

STEPS = 5
SETTINGS = dict(gamma=0.6, temperature=1.3)


class SD20V(comfy.supported_models.SD20):
    """An SD 2.x checkpoint with v-prediction, which ComfyUI otherwise tells by trained weights."""

    def model_type(self, state_dict, prefix=""):
        return ModelType.V_PREDICTION


class Playground(comfy.supported_models.SDXL):
    """Playground 2.5: the layout of SDXL trained as EDM."""
    sampling_settings = {}

    def model_type(self, state_dict, prefix=""):
        return super().model_type({"edm_mean": None, "edm_std": None})


class FP8(comfy.supported_models.SD15):
    """Weights in fp8, cast to bf16 in every layer."""
    manual_cast_dtype = torch.bfloat16


SD1_BLOCKS = [(number, 0) for number in range(6, 12)]
SDXL_BLOCKS = [(number, index) for number in range(6) for index in range(3 if number < 3 else 2)]
LIMITS = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float8_e4m3fn: 5e-2}

FAMILIES = {
    "sd1": (comfy.supported_models.SD15, SD1, "auto", SD1_BLOCKS),
    "sd1_inpaint": (comfy.supported_models.SD15, SD1 | dict(in_channels=9), "6-11", SD1_BLOCKS),
    "sd2": (comfy.supported_models.SD20, LINEAR, "auto", SD1_BLOCKS),
    "sd2_v": (SD20V, LINEAR, "6-11", SD1_BLOCKS),
    "sdxl": (comfy.supported_models.SDXL, SDXL, "auto", SDXL_BLOCKS),
    "sdxl_edm": (Playground, SDXL, "auto", SDXL_BLOCKS),
    "fp16": (comfy.supported_models.SD15, SD1 | dict(dtype=torch.float16), "6-11", SD1_BLOCKS),
    "bf16": (comfy.supported_models.SD15, SD1 | dict(dtype=torch.bfloat16), "6-11", SD1_BLOCKS),
    "fp8": (FP8, SD1 | dict(dtype=torch.float8_e4m3fn), "6-11", SD1_BLOCKS),
    "sdxl_some": (comfy.supported_models.SDXL, SDXL, "output 1-2 @ 1-2, 5",
                  [(1, 1), (1, 2), (2, 1), (2, 2), (5, 0), (5, 1)]),
}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow if name in ("fp16", "fp8") else ())
                                        for name in FAMILIES])
def family(request):
    """(MODEL, text for `blocks`, the self-attentions that those are, how far rounding may take the result from the
    reference).
    """
    supported, unet, text, blocks = FAMILIES[request.param]
    return load_unet(unet_config=unet, family=supported), text, blocks, LIMITS[unet["dtype"]]


@pytest.fixture
def transfer_inputs():
    generator = torch.Generator().manual_seed(3)
    content, style = (torch.randn(shape, generator=generator) for shape in ((1, 4, 16, 24), (1, 4, 24, 16)))
    context, pooled = (torch.randn(shape, generator=generator) for shape in ((1, 7, CONTEXT_DIM), (1, 1280)))
    return {"samples": content}, {"samples": style}, [[context, {"pooled_output": pooled}]]


FEATURES = {  # what is done to the model, how many contents and styles, what SamplerCustom is told
    "guidance": (None, 1, 1, dict(cfg=4.0)),
    "frames": (None, 2, 1, {}),
    "styles": (None, 1, 2, {}),
    "dpmpp_2m": (None, 1, 1, dict(sampler="dpmpp_2m")),
    "heun": (None, 1, 1, dict(sampler="heun")),
    "FreeU": (COMPANY["FreeU"], 1, 1, {}),
    "LoRA": (COMPANY["LoRA"], 1, 1, {}),
    "image tokens": (COMPANY["image tokens in attn2"], 1, 1, {}),
}


PAIRS = {(name, feature) for i, name in enumerate(FAMILIES) for j, feature in enumerate(FEATURES)
         if (i - j) % len(FEATURES) == 0}


@pytest.mark.parametrize(("family", "feature"), [
    pytest.param(name, feature, marks=() if (name, feature) in PAIRS else pytest.mark.slow) for name in FAMILIES
    for feature in FEATURES],
    indirect=["family"])
def test_features_in_every_family(pack, family, transfer_inputs, feature):
    model, text, _, limit = family
    change, contents, styles, settings = FEATURES[feature]
    model = change(model) if change else model
    content, style, positive = transfer_inputs
    content, style = ({"samples": torch.cat([latent["samples"].roll(i, -1) for i in range(count)])}
                      for latent, count in ((content, contents), (style, styles)))
    negative = [[positive[0][0].flip(1) * 2, positive[0][1]]]
    [recording] = pack.CaptureSelfAttention(model=model, blocks=text)
    (noise, content_features, sigmas), (_, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=positive, steps=3, schedule="ddim")
        for latent in (content, style))
    start = {"samples": noise["samples"].repeat(styles, 1, 1, 1)}
    papers, injecting = (patch(model) for patch in (
        lambda m: paper_attention(m, content_features, style_features, **SETTINGS),
        lambda m: pack.InjectStyleKV(model=m, content_features=content_features, style_features=style_features,
                                     **SETTINGS)[0]))
    reference, injected, plain = (sample_custom(patched, positive, sigmas, start, negative=negative,
                                                **settings)["samples"]
                                  for patched in (papers, injecting, model))
    assert relative_error(injected, reference) < limit
    assert relative_error(plain, reference) > 1e-2, "the injection makes no difference here"


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_the_predicted_size_is_what_is_kept(pack, pack_module, family, transfer_inputs, caplog, dtype):
    model, text, blocks, _ = family
    latent = {"samples": torch.randn(2, 4, 20, 28)}
    [recording] = pack.CaptureSelfAttention(model=model, blocks=text, feature_dtype=dtype)
    with caplog.at_level("INFO", logger="styleid"):
        _, features, _ = pack.DDIMInvert(model=recording, latent=latent, positive=transfer_inputs[2], steps=2,
                                         schedule="ddim")
    shapes = pack_module("nodes.engine.families.unet").token_shapes(model, features.blocks, (20, 28))
    kept = features.source.steps[0]
    assert [tuple(n.shape[1:]) for n in kept] == [(height * width, channels) for height, width, channels in shapes]
    assert caplog.messages[0] == f"The features of 2 steps will take {size(features.source.steps) / 1e9:.3g} GB of RAM."


def test_injection_is_the_papers_attention(pack, family, transfer_inputs):
    model, text, blocks, limit = family
    content, style, positive = transfer_inputs
    [recording] = pack.CaptureSelfAttention(model=model, blocks=text)
    (noise, content_features, sigmas), (style_noise, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=positive, steps=STEPS, schedule="ddim")
        for latent in (content, style))
    assert style_features.blocks == [("output", *block) for block in blocks]
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features, **SETTINGS)
    papers = paper_attention(model, content_features, style_features, **SETTINGS)

    reference, injected, plain = (sample_custom(patched, positive, sigmas, start)["samples"]
                                  for patched in (papers, m, model))
    assert relative_error(injected, reference) < limit
    assert relative_error(plain, reference) > 1e-2, "the injection makes no difference here"

    one_node = stylize(pack, model=model, content=content, style=style, positive=positive, steps=STEPS, blocks=text,
                       schedule="ddim", **SETTINGS)
    assert relative_error(one_node["samples"], reference) < limit
    recomputed = stylize(pack, model=model, content=content, style=style, positive=positive, steps=STEPS, blocks=text,
                         schedule="ddim", feature_device="recompute", **SETTINGS)
    assert relative_error(recomputed["samples"], one_node["samples"]) < limit
