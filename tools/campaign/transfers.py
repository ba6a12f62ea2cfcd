"""Small random transfers by the pack's nodes, in one node or in five."""

import hashlib
import random
from typing import NamedTuple

import comfy.sd
import comfy.supported_models
import torch

from ..demo.transfer import sample_custom
from ..miniature.unet import CONTEXT_DIM, UNET, load_unet, prompt_token, seeded_tensor
from ..pack import stylize

# Two resolutions, with attention in the decoder only: a call takes milliseconds.
SMALL_UNET = UNET | dict(num_res_blocks=[1, 1], channel_mult=[1, 2], transformer_depth=[0, 0],
                         transformer_depth_output=[1] * 4, transformer_depth_middle=-1)


class Transfer(NamedTuple):
    seed: int
    contents: int
    styles: int
    content_size: tuple[int, int]
    style_size: tuple[int, int]
    nodes: str  # "one" or "five"
    lora: bool
    masked: bool
    cfg: float
    settings: dict  # further inputs of StyleIDSampler


def random_transfer(rng: random.Random) -> Transfer:
    sizes = [tuple(rng.choice((8, 10, 16)) for _ in range(2)) for _ in range(2)]
    contents, styles = rng.choice([(1, 1), (1, 1), (2, 1), (1, 2), (2, 2)])
    settings = dict(steps=rng.choice((2, 3)), gamma=rng.random(), temperature=rng.uniform(0.5, 2.5),
                    color_strength=rng.choice((0.0, 0.5, 1.0)), blocks=rng.choice(("0-3", "auto", "1,3")),
                    schedule=rng.choice(("official", "ddim", "karras", "normal")),
                    denoise=rng.choice((1.0, 1.0, 0.6)), inject_into=rng.choice(("both", "cond")),
                    feature_dtype=rng.choice(("auto", "fp16", "bf16", "int8")),
                    feature_device=rng.choice(("auto", "cpu", "recompute")))
    settings["refine"] = 0 if settings["schedule"] == "official" else rng.choice((0, 0, 1))
    return Transfer(rng.randrange(10 ** 6), contents, styles, sizes[0], rng.choice(sizes), rng.choice(("one", "five")),
                    rng.random() < 0.3, rng.random() < 0.3, rng.choice((1.0, 1.0, 3.0)), settings)


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
    generator = torch.Generator().manual_seed(transfer.seed)
    content, style = ({"samples": torch.randn(count, 4, *size, generator=generator)} for count, size in (
        (transfer.contents, transfer.content_size), (transfer.styles, transfer.style_size)))
    if transfer.masked:
        content["noise_mask"] = (torch.rand(1, *(8 * side for side in transfer.content_size),
                                            generator=generator) > 0.5).float()
    return content, style


def run(pack, model, transfer: Transfer) -> torch.Tensor:
    """The stylized latent (B, C, H, W)."""
    content, style = latents(transfer)
    if transfer.lora:
        model = comfy.sd.load_lora_for_models(model, None, lora_weights(), 1.0, 0.0)[0]
    prompts = dict(positive=conditioning_of("positive"), negative=conditioning_of("negative"), cfg=transfer.cfg)
    by = one_node if transfer.nodes == "one" else five_nodes
    return by(pack, model, content, style, prompts, transfer.settings)["samples"]


def one_node(pack, model, content: dict, style: dict, prompts: dict, settings: dict) -> dict:
    return stylize(pack, model=model, content=content, style=style, **prompts, **settings)


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
