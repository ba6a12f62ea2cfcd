"""Small transfers by the pack's nodes, in one node or in five, and what Hypothesis draws them from."""

import hashlib
from typing import NamedTuple

import comfy.sd
import comfy.supported_models
import torch
from hypothesis import strategies as st

from ..demo.transfer import sample_custom
from ..miniature.unet import CONTEXT_DIM, UNET, load_unet, prompt_token, seeded_tensor
from ..pack import stylize

# Two resolutions, with attention in the decoder only: a call takes milliseconds.
SMALL_UNET = UNET | dict(num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[0, 0],
                         transformer_depth_output=[1] * 4, transformer_depth_middle=-1)


class Transfer(NamedTuple):
    """`settings` are inputs of StyleIDSampler or StyleIDOptions; `masked` gives the content a noise mask."""
    settings: dict
    content_shape: tuple[int, int, int, int] = (1, 4, 8, 8)
    style_shape: tuple[int, int, int, int] = (1, 4, 8, 8)
    in_one_node: bool = True
    lora: bool = False
    masked: bool = False
    cfg: float = 1.0


SETTINGS = st.fixed_dictionaries(dict(
    steps=st.sampled_from((2, 3)), gamma=st.floats(0, 1), temperature=st.floats(0.5, 2.5),
    color_strength=st.floats(0, 1), blocks=st.sampled_from(("0-3", "auto", "1,3")),
    schedule=st.sampled_from(("official", "ddim", "karras", "normal")), denoise=st.sampled_from((1.0, 0.6)),
    refine=st.sampled_from((0, 1)), inject_into=st.sampled_from(("both", "cond")),
    feature_dtype=st.sampled_from(("auto", "fp16", "bf16", "int8")),
    feature_device=st.sampled_from(("auto", "cpu", "recompute")),
)).filter(lambda settings: not (settings["refine"] and settings["schedule"] == "official"))
SIDE = st.sampled_from((8, 10, 16))
SHAPE = st.tuples(st.integers(1, 2), st.just(4), SIDE, SIDE)
TRANSFERS = st.builds(Transfer, SETTINGS, SHAPE, SHAPE, in_one_node=st.booleans(), lora=st.booleans(),
                      masked=st.booleans(), cfg=st.sampled_from((1.0, 3.0)))


def small_model():
    return load_unet(unet_config=SMALL_UNET, family=comfy.supported_models.SD15)


def conditioning_of(name: str) -> list:
    return [[prompt_token(name), {}]]


def lora_weights() -> dict:
    """A LoRA of rank 2 on the projections of the last block's self-attention."""
    keys = [f"lora_unet_output_blocks_3_1_transformer_blocks_0_attn1_{name}" for name in ("to_q", "to_k", "to_v")]
    return {f"{key}.lora_{side}.weight": seeded_tensor(f"{key}.{side}", shape, 1, 0.5)
            for key in keys for side, shape in (("down", (2, CONTEXT_DIM)), ("up", (CONTEXT_DIM, 2)))}


def latents(transfer: Transfer) -> tuple[dict, dict]:
    """LATENT of content and style."""
    generator = torch.Generator().manual_seed(0)
    content, style = ({"samples": torch.randn(shape, generator=generator)}
                      for shape in (transfer.content_shape, transfer.style_shape))
    if transfer.masked:
        height, width = (8 * side for side in transfer.content_shape[2:])
        content["noise_mask"] = (torch.rand(1, height, width, generator=generator) > 0.5).float()
    return content, style


def run(pack, model, transfer: Transfer) -> torch.Tensor:
    """The stylized latent (B, C, H, W)."""
    content, style = latents(transfer)
    if transfer.lora:
        model = comfy.sd.load_lora_for_models(model, None, lora_weights(), 1.0, 0.0)[0]
    prompts = dict(positive=conditioning_of("positive"), negative=conditioning_of("negative"), cfg=transfer.cfg)
    if transfer.in_one_node:
        latent = stylize(pack, model=model, content=content, style=style, **prompts, **transfer.settings)
    else:
        latent = five_nodes(pack, model, content, style, prompts, transfer.settings)
    return latent["samples"]


def five_nodes(pack, model, content: dict, style: dict, prompts: dict, settings: dict) -> dict:
    capture = {name: settings[name] for name in ("blocks", "feature_dtype", "feature_device")}
    recording = pack.CaptureSelfAttention(model=model, **capture)[0]
    path = {name: settings[name] for name in ("steps", "schedule", "denoise", "refine")}
    (noise, content_features, sigmas), (style_noise, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=prompts["positive"], **path)
        for latent in (content, style))
    start = pack.LatentAdaIN(content=noise, style=style_noise, color_strength=settings["color_strength"])[0]
    injected = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features,
                                  **{name: settings[name] for name in ("gamma", "temperature", "inject_into")})[0]
    return sample_custom(injected, prompts["positive"], sigmas, start, cfg=prompts["cfg"], negative=prompts["negative"])


def digest(samples: torch.Tensor) -> str:
    """Equal for the same bits only, and no tensor itself."""
    return hashlib.sha1(samples.contiguous().numpy().tobytes()).hexdigest() + str(list(samples.shape))
