"""A transformer in the layout of Lumina 2 and Z-Image, trained to predict the velocity of a rectified flow (Liu et al.
2022).
"""

from pathlib import Path
from unittest import mock

import comfy.model_management
import torch

from ..miniature.flow import DEVIATION, new_flow
from ..miniature.unet import PROMPTS, prompt_token
from .autoencoder import encode_all
from .loop import Task, half_precision, own_part
from .pictures import Pool, load_squares, sent
from .unet import random_batch, shares, training_latents, validation

BATCHES = ((16, 64), (24, 28), (32, 16), (48, 8))  # (latent side, batch), in turn
VALIDATION_SIGMAS = (0.1, 0.3, 0.5, 0.7, 0.9)


def initialise(network: torch.nn.Module):
    for name, parameter in network.named_parameters():
        if "pad_token" in name or parameter.ndim > 1:
            torch.nn.init.xavier_uniform_(parameter)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
        else:
            torch.nn.init.ones_(parameter)
    for name, parameter in network.named_parameters():
        if "adaLN_modulation" in name or name.startswith("final_layer.linear"):
            torch.nn.init.zeros_(parameter)


def untrained_flow(seed: int):
    """The MODEL, to predict no velocity at first."""
    torch.manual_seed(seed)
    patcher = new_flow()
    initialise(patcher.model.diffusion_model)
    return patcher


def flow_task(patcher, autoencoder: torch.nn.Sequential, training: list[Path], held_back: list[Path], folder: Path,
              seed: int, device: torch.device, batch_scale: int) -> Task:
    encoder = autoencoder[0]
    latents, labels = training_latents(encoder, training, folder, device)
    pool = Pool(latents, device, shares(labels))
    test = torch.stack(encode_all(encoder, load_squares(held_back, 256), device)) / DEVIATION
    tokens = torch.cat([prompt_token(prompt) for prompt in PROMPTS]).to(device)

    def errors(network, z, prompts, sigmas, noise):
        """Mean squared error of the predicted velocity of each sample."""
        sigma = sigmas.view(-1, 1, 1, 1)
        with half_precision(device):
            predicted = network((1 - sigma) * z + sigma * noise, sigmas, context=tokens[prompts], num_tokens=1)
        return (predicted.float() - (noise - z)).square().mean((1, 2, 3))

    def loss(network, generator):
        z, prompts = random_batch(pool, labels, BATCHES, batch_scale, generator)
        sigmas = torch.randn(len(z), generator=generator).sigmoid()  # more of the middle (Esser et al. 2024)
        parts = own_part(z / DEVIATION, prompts, sigmas, torch.randn(z.shape, generator=generator))
        # ComfyUI's fused kernels have no gradients.
        with mock.patch.object(comfy.model_management, "in_training", True):
            return errors(network, *(sent(part, device) for part in parts)).mean()

    return Task("flow", patcher.model.diffusion_model, loss, validation(errors, test, VALIDATION_SIGMAS, seed, device))
