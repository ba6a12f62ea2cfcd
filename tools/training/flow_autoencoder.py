"""The transformer's autoencoder: that of the UNet with twice the channels, trained on for absolute error and LPIPS.

Four channels keep neither green nor narrow strokes. Processes share each batch of pictures.
"""

from pathlib import Path

import torch

from ..miniature.flow import CHANNELS
from .autoencoder import LATENT_WEIGHT, SHORT_SIDES, latent_error, new_autoencoder, prepare, shipped_autoencoder
from .decoder import Distance, crops_with_strokes, perceptual_error, restoration
from .loop import Task, half_precision, own_part
from .pictures import load_pictures, load_squares

LPIPS_SHARE = 0.25  # of the loss; a larger one invents detail before the new channels keep it
LATENT_NOISE = 0.1
AVERAGE_DECAY = 0.995
NEW = 0.3  # of the usual initial weights, for what the new channels have


def widened(autoencoder: torch.nn.Sequential, channels: int, seed: int) -> torch.nn.Sequential:
    """With more channels in the latent, after those that are there."""
    wide = new_autoencoder(seed, channels)
    state = wide.state_dict()
    for name, tensor in autoencoder.state_dict().items():
        state[name].mul_(NEW)[tuple(map(slice, tensor.shape))] = tensor
    return wide


def flow_autoencoder_task(training: list[Path], strokes: list[Path], held_back: list[Path], lpips: Distance, seed: int,
                          device: torch.device) -> Task:
    """`strokes` are drawn pictures that are in every batch, at their own size."""
    pictures, drawn = load_pictures(training, SHORT_SIDES), load_pictures(strokes, (512,))
    test = load_squares(held_back, 256)

    def loss(network, generator):
        encoder, decoder = network
        x, noise = own_part(*prepare(crops_with_strokes(pictures, drawn, generator), generator, device, CHANNELS, LATENT_NOISE))
        with half_precision(device):
            z = encoder(x)
            restored = decoder(z + noise).float()
        return perceptual_error(restored, x, lpips, LPIPS_SHARE, generator) + LATENT_WEIGHT * latent_error(z.float())

    def validate(network):
        return restoration(network, test, lpips, device)["lpips"]

    return Task("flow_autoencoder", widened(shipped_autoencoder(), CHANNELS, seed), loss, validate, AVERAGE_DECAY)
