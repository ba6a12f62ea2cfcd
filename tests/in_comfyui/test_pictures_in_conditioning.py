"""What a conditioning holds of the content's picture does not go into the style's inversion: one node beside five, each
with its own.
"""

import comfy.supported_models
import pytest
import torch
from cases import relative_error
from sequences import CONTENT, STYLE

from nodes import ControlNetApplyAdvanced
from tools.demo.transfer import sample_custom
from tools.miniature.seeded import load_controlnet
from tools.miniature.transformers import latent, load_transformer, prompt
from tools.miniature.unet import WIDE_HEADS, load_unet
from tools.pack import stylize

STEPS = 3
MASK = torch.zeros(1, 1, 128, 192)
MASK[..., :96] = 1


def having(positive: list, **entries) -> list:
    return [[text, entry | entries] for text, entry in positive]


def controlled(positive: list, seed: int) -> list:
    hint = torch.rand(1, 128, 192, 3, generator=torch.Generator().manual_seed(seed))
    return ControlNetApplyAdvanced().apply_controlnet(positive, positive, load_controlnet(), hint, 1.0, 0.0, 1.0)[0]


def five_nodes(pack, model, content, style, content_positive, style_positive) -> torch.Tensor:
    [recording] = pack.CaptureSelfAttention(model=model)
    (noise, features, sigmas), (style_noise, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=each, positive=positive, steps=STEPS, schedule="ddim")
        for each, positive in ((content, content_positive), (style, style_positive)))
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=features, style_features=style_features)
    return sample_custom(m, content_positive, sigmas, start)["samples"]


@pytest.fixture
def kinds(case):
    """By kind: (MODEL, LATENTs of content and style, CONDITIONING of the content, what the style is inverted with)."""
    content, style, empty = case.content, case.style, case.positive
    of_content, of_style = content["samples"], style["samples"]
    inpainting = load_unet(unet_config=WIDE_HEADS | dict(in_channels=9))
    editing = load_unet(unet_config=WIDE_HEADS | dict(in_channels=8),
                        family=comfy.supported_models.SD15_instructpix2pix)
    flux, flux_prompt = load_transformer("flux"), prompt("flux")
    flux_content, flux_style = latent("flux", CONTENT, 1), latent("flux", STYLE, 2)
    shown = [having(flux_prompt, reference_latents=[each["samples"]]) for each in (flux_content, flux_style)]
    return {
        "a ControlNet": (load_unet(unet_config=WIDE_HEADS), content, style, controlled(empty, 1), empty),
        "an inpainting model": (inpainting, content, style,
                                having(empty, concat_latent_image=of_content * 0.5, concat_mask=MASK),
                                having(empty, concat_latent_image=of_style, concat_mask=torch.ones_like(MASK))),
        "InstructPix2Pix": (editing, content, style, having(empty, concat_latent_image=of_content),
                            having(empty, concat_latent_image=of_style)),
        "a reference": (flux, flux_content, flux_style, *shown),
        "a reference to something else": (flux, flux_content, flux_style, having(
            flux_prompt, reference_latents=[torch.randn(1, 16, 8, 10)]), flux_prompt)}


@pytest.mark.parametrize("kind", ["a ControlNet", "an inpainting model", "InstructPix2Pix", "a reference",
                                  "a reference to something else"])
@pytest.mark.parametrize("name", ["positive", "inversion_positive"])
def test_the_style_has_its_own_picture_or_none(pack, kinds, caplog, kind, name):
    model, content, style, content_positive, style_positive = kinds[kind]
    inputs = dict(model=model, content=content, style=style, positive=content_positive, steps=STEPS, schedule="ddim")
    if name == "inversion_positive":
        inputs |= {name: content_positive}
    with caplog.at_level("INFO", logger="styleid"):
        result = stylize(pack, **inputs)["samples"]
    assert f"in place of what {name} has of the content" in caplog.text
    assert relative_error(result, five_nodes(pack, model, content, style, content_positive, style_positive)) < 1e-5
    assert relative_error(result, five_nodes(pack, model, content, style, content_positive, content_positive)) > 1e-3


def test_a_conditioning_of_the_styles_own(pack, kinds):
    model, content, style, content_positive, _ = kinds["a ControlNet"]
    own = controlled(content_positive, 2)
    result = stylize(pack, model=model, content=content, style=style, positive=content_positive, style_positive=own,
                     steps=STEPS, schedule="ddim")["samples"]
    assert relative_error(result, five_nodes(pack, model, content, style, content_positive, own)) < 1e-5


@pytest.mark.parametrize("entry", ["concat_latent_image", "vace_frames", "control_video", "made_by_another_pack"])
def test_another_picture_is_refused_by_name(pack, model, case, calls, entry):
    """Such as the depths of the content for a model that is conditioned on them: nobody can tell those of the style."""
    inputs = dict(model=model, content=case.content, style=case.style, steps=2,
                  positive=having(case.positive, **{entry: [torch.randn(1, 4, 1, 8, 8)]}))
    calls.clear()
    with pytest.raises(ValueError,
                       match=rf"positive holds a picture that belongs to the content \({entry}\).*style_positive"):
        stylize(pack, **inputs)
    assert not calls
    assert stylize(pack, style_positive=case.positive, **inputs)["samples"].isfinite().all()


def test_a_prompt_goes_with_any_picture(pack, model, case, caplog):
    entries = dict(pooled_output=torch.randn(1, 1280), guidance=3.5, attention_mask=torch.ones(1, 77), width=512)
    with caplog.at_level("INFO", logger="styleid"):
        stylize(pack, model=model, content=case.content, style=case.style, positive=having(case.positive, **entries),
                steps=2)
    assert "in place of what" not in caplog.text


def test_the_style_is_not_inverted_again_for_another_content(pack, kinds, calls, case):
    """Its conditioning is made anew for each run, and is the same."""
    _, content, style, content_positive, _ = kinds["a ControlNet"]
    model, content = kinds["a ControlNet"][0], {"samples": content["samples"][..., :16]}
    made = []
    handle = model.model.diffusion_model.time_embed.register_forward_hook(lambda *_: made.append(None))
    inputs = dict(model=model, style=style, steps=STEPS)
    pack.StyleIDSampler(content=content, positive=content_positive, **inputs)
    other = dict(content={"samples": content["samples"].flip(-1)}, positive=controlled(case.positive, 3))
    for change, inversions in (({}, 0), (dict(gamma=0.3), 0), (other, 1)):
        made.clear()
        pack.StyleIDSampler(**inputs | dict(content=content, positive=content_positive) | change)
        assert len(made) == (1 + inversions) * STEPS
    handle.remove()
