"""Transfers by the five nodes in this process, for figures and tests. Import tools.in_process first."""

import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import comfy.sd
import numpy
import torch
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import SamplerCustom
from PIL import Image, ImageOps

import nodes

from ..miniature.autoencoder import load_autoencoder
from ..miniature.flow import load_trained_flow
from ..miniature.unet import conditioning, load_trained_unet

FIRST = {"output": 6, "layers": 2}  # of the captured blocks, of the UNet and of the transformer


def as_image(picture: Image.Image, side: int) -> torch.Tensor:
    """IMAGE (1, side, side, 3): the middle square."""
    square = ImageOps.fit(picture.convert("RGB"), (side, side), Image.Resampling.LANCZOS)
    return torch.from_numpy(numpy.array(square))[None].float() / 255


def sample_custom(model, positive: list, sigmas: torch.Tensor, latent: dict, sampler="euler", **inputs) -> dict:
    """LATENT of ComfyUI's SamplerCustom, without noise and guidance but for its other `inputs`; `sampler` is a SAMPLER,
    or the name of one.
    """
    sampler = sampler_object(sampler) if isinstance(sampler, str) else sampler
    given = {name: value for name, value in inputs.items() if value is not None}
    inputs = dict(add_noise=False, noise_seed=0, cfg=1.0, negative=positive) | given
    return SamplerCustom.execute(model=model, positive=positive, sampler=sampler, sigmas=sigmas, latent_image=latent,
                                 **inputs).result[0]


def load_checkpoint(file: Path) -> tuple:
    """(MODEL, CONDITIONING of an empty prompt, VAE), as CheckpointLoaderSimple and CLIPTextEncode give them."""
    model, clip, vae, *_ = comfy.sd.load_checkpoint_guess_config(str(file))
    [positive] = nodes.CLIPTextEncode().encode(clip, "")
    return model, positive, vae


class Inverted(NamedTuple):
    """What DDIM Invert gives: LATENT, features, sigmas (steps + 1,)."""
    noise: dict
    features: tuple
    sigmas: torch.Tensor


class Transfer:
    """The trained model with `pack`, its nodes; pictures are IMAGE tensors (B, H, W, 3) in 0..1. `flow` is for the
    transformer, which sees styles where StyleID Positions puts them by default; a `checkpoint` is taken for both.
    """

    def __init__(self, pack: SimpleNamespace, schedule: str = "official", steps: int = 50, refine: int = 0,
                 flow: bool = False, checkpoint: Path | None = None):
        self.pack, self.schedule, self.steps, self.refine, self.blocks = pack, schedule, steps, refine, "auto"
        if checkpoint:
            self.model, self.positive, self.vae = load_checkpoint(checkpoint)
            return
        self.model = load_trained_flow() if flow else load_trained_unet()
        self.vae, self.positive = load_autoencoder(), conditioning()
        if flow:
            [self.model] = pack.StyleIDPositions(model=self.model)

    def encode(self, pictures: torch.Tensor) -> dict:
        return {"samples": self.vae.encode(pictures)}

    def decode(self, latent: dict) -> torch.Tensor:
        return self.vae.decode(latent["samples"])

    def invert(self, pictures: torch.Tensor) -> Inverted:
        [recording] = self.pack.CaptureSelfAttention(model=self.model, blocks=self.blocks)
        noise, features, sigmas = self.pack.DDIMInvert(model=recording, latent=self.encode(pictures),
                                                       positive=self.positive, steps=self.steps,
                                                       schedule=self.schedule, refine=self.refine)
        return Inverted(noise, features, sigmas)

    def sample(self, start: dict, sigmas: torch.Tensor, model=None) -> dict:
        """LATENT of sampling without noise, guidance or injection, unless `model` has it."""
        return sample_custom(model or self.model, self.positive, sigmas, start)

    def stylize(self, content: Inverted, style: Inverted, color_strength: float = 1.0, inject: bool = True,
                observe=None, positions: tuple = (), **more) -> dict:
        """LATENT of the result; `more` are inputs of Inject Style K/V, `positions` settings of StyleID Positions.
        `observe(sigma, q, k)` sees every attention of the picture in the captured blocks, q and k (batch, heads,
        tokens, channels).
        """
        [start] = self.pack.LatentAdaIN(content=content.noise, style=style.noise, color_strength=color_strength)
        model = self.model
        if positions:
            [model] = self.pack.StyleIDPositions(model=model,
                                                 **dict(zip(("place", "high_frequencies", "low_frequencies"),
                                                            positions)))
        if inject:
            [model] = self.pack.InjectStyleKV(model=model, content_features=content.features,
                                              style_features=style.features, **more)
        return self.sample(start, content.sigmas, observed(model, observe) if observe else model)

    def logit_deviations(self, content: Inverted, style: Inverted, **options) -> dict[float, float]:
        """By sigma: the standard deviation of attention logits over the picture's keys, a mean over queries, heads and
        captured blocks.
        """
        seen = defaultdict(list)

        def observe(sigma, q, k):
            seen[sigma].append((q @ k.mT / q.shape[-1] ** 0.5).std(-1).mean().item())

        self.stylize(content, style, observe=observe, **options)
        return {sigma: sum(values) / len(values) for sigma, values in seen.items()}


def observed(model, observe):
    """A clone of `model` whose captured blocks also tell `observe(sigma, q, k)` what the picture attends to. The prompt
    is one token.
    """
    m = model.clone()

    def attention(function, q, k, v, heads, *args, transformer_options, **kwargs):
        side, number = transformer_options.get("block", ("layers", transformer_options.get("block_index", 0)))[:2]
        if number >= FIRST.get(side, math.inf) and k.shape[-2] > 1:
            if side == "layers":
                queries, keys = q[:, :, -(k.shape[2] - 1):], k[:, :, 1:]
            else:
                queries, keys = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
            if queries.shape[2] > 1:  # those of the prompt have a call of their own
                observe(transformer_options["sigmas"][0].item(), queries, keys)
        return function(q, k, v, heads, *args, transformer_options=transformer_options, **kwargs)

    m.model_options["transformer_options"]["optimized_attention_override"] = attention
    return m
