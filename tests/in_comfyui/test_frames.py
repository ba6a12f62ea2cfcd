"""Several pictures in one latent whose model calls take some of them: each gets the features of its own."""

import pytest
import torch
from companions import first_output

from tools.demo.transfer import sample_custom

SETTINGS = dict(gamma=0.6, temperature=1.3)
context_windows = pytest.importorskip("comfy_extras.nodes_context_windows")
FRAMES = 4


@pytest.fixture(scope="module")
def frames(pack, model, case):
    """(noise, content features, sigmas), (_, style features, _) of four different frames and styles, in a batch."""
    with torch.inference_mode():
        [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
        batches = [{"samples": torch.cat([latent["samples"].roll(4 * i, -1) * (1 - 0.1 * i) for i in range(FRAMES)])}
                   for latent in (case.content, case.style)]
        return [pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=4, schedule="ddim")
                for latent in batches]


@pytest.fixture
def windowed(model):
    """ComfyUI's context windows: two frames at a time."""
    return first_output(context_windows.ContextWindowsManualNode.execute(
        model, context_length=2, context_overlap=0, context_schedule="standard_static", context_stride=1,
        closed_loop=False, fuse_method="pyramid", dim=0, freenoise=False))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_context_windows(pack, model, windowed, case, frames, cfg, record_property):
    """Frames do not see each other in an image model, so windows change nothing."""
    (noise, content, sigmas), (_, style, _) = frames
    negative = [[case["context"].flip(1), {}]]
    results = []
    for each in (model, windowed):
        [m] = pack.InjectStyleKV(model=each, content_features=content, style_features=style, **SETTINGS)
        results.append(sample_custom(m, case.positive, sigmas, noise, cfg=cfg, negative=negative)["samples"])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    record_property("beside", ("ComfyUI", "Context Windows over frames", "compose; refused in an inversion"))


def test_the_windows_of_animatediff(pack, model, case, frames, record_property):
    """It calls the model for the frames that ad_params names."""
    (noise, content, sigmas), (_, style, _) = frames
    order = [3, 1]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, **SETTINGS)
    whole = sample_custom(m, case.positive, sigmas[:2], noise)["samples"]

    def two_of_four(apply_model, args):
        options = args["c"]["transformer_options"] | {"ad_params": {"sub_idxs": order}}
        part = apply_model(args["input"][order], args["timestep"][order], **args["c"] | {
            "transformer_options": options, "c_crossattn": args["c"]["c_crossattn"][order]})
        out = torch.zeros_like(args["input"])
        out[order] = part
        return out

    m.set_model_unet_function_wrapper(two_of_four)
    part = sample_custom(m, case.positive, sigmas[:2], noise)["samples"]
    torch.testing.assert_close(part[order], whole[order], rtol=1e-4, atol=1e-4)
    record_property("beside", ("any", "windows that ad_params names (AnimateDiff-Evolved)", "compose"))


def test_parts_that_nobody_names_are_refused(pack, model, case, frames):
    (noise, content, sigmas), (_, style, _) = frames
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)

    def halves(apply_model, args):
        parts = [apply_model(x, t, **args["c"] | {"c_crossattn": c}) for x, t, c in zip(
            args["input"].chunk(2), args["timestep"].chunk(2), args["c"]["c_crossattn"].chunk(2))]
        return torch.cat(parts)

    m.set_model_unet_function_wrapper(halves)
    with pytest.raises(ValueError, match="called with 2 latents, and 1 x 4 are sampled: another node samples tiles"):
        sample_custom(m, case.positive, sigmas[:2], noise)


@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_windows_in_an_inversion_are_refused(pack, windowed, case, device):
    [recording] = pack.CaptureSelfAttention(model=windowed, blocks="6-11", feature_device=device)
    latent = {"samples": case.content["samples"].repeat(FRAMES, 1, 1, 1)}
    with pytest.raises(ValueError, match="needs the whole picture in one model call for a step, and another node makes "
                                         "several"):
        pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=2, schedule="ddim")
