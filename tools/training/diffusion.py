"""The two diffusion models on the autoencoder's latents.

A UNet in SD 1.x's layout predicts the noise of SD 1.x's schedule, weighted by min-SNR (Hang et al. 2023), with an
attention that looks at parts. A transformer in the layout of Lumina 2 and Z-Image predicts the velocity of a rectified
flow (Liu et al. 2022).
"""

from typing import NamedTuple
from unittest import mock

import comfy.model_management
import torch
from comfy.taesd.taesd import TAESD

from ..miniature.flow import DEVIATION, new_flow
from ..miniature.unet import PROMPTS, TRAINED_UNET, MiniatureSD, load_unet, prompt_token
from .loop import Task
from .parts import attention_error, attention_seen
from .pictures import Data, Pool, load_pictures, prompt_of

SHORT_SIDES = (160, 256, 384)
# (latent side, batch), in turn: the larger teach attention over more tokens.
UNET_BATCHES = ((16, 32), (32, 8))
FLOW_BATCHES = ((16, 64), (24, 28), (32, 16), (48, 8))
# The last are painted and drawn.
SHARES = {"photograph": 0.26, "western painting": 0.16, "chinese painting": 0.08, "empty prompt": 0.50}
EMPTY_PROMPT = 0.7  # share of samples that see the empty prompt whatever their folder
MAX_SNR = 5.0
PARTS_WEIGHT = 0.05  # of the attention's error, taken of one sample in eight, as decoder and AlexNet take long


class Samples(NamedTuple):
    """Latents, and the index (members,) of each one's prompt."""
    latents: Pool
    prompts: torch.Tensor


def encode(autoencoder: TAESD, data: Data) -> list[Samples]:
    """What is trained on and what is held back: each picture at all sizes, and mirrored."""
    samples = []
    for paths in (data.training, data.held_back):
        pictures = (x for picture in load_pictures(paths, SHORT_SIDES) for x in (picture, picture.flip(-1)))
        prompts = torch.tensor([PROMPTS.index(prompt_of(path)) for path in paths] * len(SHORT_SIDES))
        prompts = prompts.repeat_interleave(2)
        weights = torch.tensor([SHARES[prompt] for prompt in PROMPTS])[prompts] / prompts.bincount()[prompts]
        with torch.no_grad():
            latents = [autoencoder.taesd_encoder(x[None].to(data.device) / 255)[0] for x in pictures]
        samples.append(Samples(Pool(latents, data.device, weights), prompts))
    return samples


def random_batch(samples: Samples, sizes: tuple[tuple[int, int], ...],
                 generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Crops (B, C, side, side) of one of the `sizes` (side, B), and their context (B, 1, channels)."""
    side, count = sizes[torch.randint(len(sizes), (1,), generator=generator).item()]
    z, chosen = samples.latents.crops(count, side, generator)
    empty = torch.rand(count, generator=generator) < EMPTY_PROMPT
    tokens = torch.cat([prompt_token(prompt) for prompt in PROMPTS])
    return z, tokens[samples.prompts[chosen].masked_fill(empty, 0)].to(z.device)


def untrained_unet():
    """The MODEL, to predict no noise at first."""
    return load_unet(0, output_gain=0.0, unet_config=TRAINED_UNET, family=MiniatureSD)


def unet_task(model, samples: list[Samples], autoencoder: TAESD, alexnet: torch.nn.Sequential) -> Task:
    alphas_cumprod = 1 / (model.model_sampling.sigmas.square() + 1)  # as ComfyUI's sigma^2 = (1 - alpha) / alpha

    def loss(network, samples, generator):
        z, context = random_batch(samples, UNET_BATCHES, generator)
        timesteps = torch.randint(1000, (len(z),), generator=generator).to(z.device)
        noise = torch.randn(z.shape, generator=generator).to(z.device)
        alpha = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        seen = []
        predicted = network(alpha.sqrt() * z + (1 - alpha).sqrt() * noise, timesteps, context=context,
                            transformer_options=attention_seen(seen))
        weight = (MAX_SNR * (1 - alpha) / alpha).clamp(max=1)
        with torch.no_grad():
            pictures = autoencoder.taesd_decoder(z[:max(2, len(z) // 8)]).clamp(0, 1)
        return ((weight * (predicted - noise).square()).mean()
                + PARTS_WEIGHT * attention_error(seen, alexnet, pictures))

    return Task("unet", model.diffusion_model.requires_grad_(True), loss, *samples)


def untrained_flow():
    """The MODEL, to predict no velocity at first."""
    torch.manual_seed(0)
    patcher = new_flow()
    for name, parameter in patcher.model.diffusion_model.named_parameters():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear") or name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        elif "pad_token" in name or parameter.ndim > 1:
            torch.nn.init.xavier_uniform_(parameter)
        else:
            torch.nn.init.ones_(parameter)
    return patcher


def flow_task(model, samples: list[Samples]) -> Task:
    def loss(network, samples, generator):
        z, context = random_batch(samples, FLOW_BATCHES, generator)
        z = z / DEVIATION
        sigmas = torch.randn(len(z), generator=generator).sigmoid().to(z.device)  # logit-normal (Esser et al. 2024)
        noise = torch.randn(z.shape, generator=generator).to(z.device)
        sigma = sigmas.view(-1, 1, 1, 1)
        # ComfyUI's fused kernels have no gradients.
        with mock.patch.object(comfy.model_management, "in_training", True):
            predicted = network((1 - sigma) * z + sigma * noise, sigmas, context=context, num_tokens=1)
        return (predicted - (noise - z)).square().mean()

    return Task("flow", model.diffusion_model.requires_grad_(True), loss, *samples)
