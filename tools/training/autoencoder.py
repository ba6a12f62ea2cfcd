"""An autoencoder in TAESD's layout, trained for squared error."""

from collections.abc import Iterable
from pathlib import Path

import torch
from comfy.taesd.taesd import Block, Decoder, Encoder
from safetensors.torch import load_file

from ..demo.measures import psnr
from ..miniature.autoencoder import AUTOENCODER, CHANNELS
from .loop import Task, half_precision, own_part
from .pictures import Pool, load_pictures, load_squares, sent, to_float

CROP = 128
BATCH = 4
SHORT_SIDES = (192, 256, 384)
LATENT_STD = 0.8  # well inside the tanh that bounds the decoder's input
LATENT_NOISE = 0.05  # the decoder must bear what a sampler leaves over
LATENT_WEIGHT = 0.01


def new_autoencoder(seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    network = torch.nn.Sequential(Encoder(CHANNELS), Decoder(CHANNELS))
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    for block in network.modules():
        if isinstance(block, Block):
            block.conv[-1].weight.data *= 0.1
    return network.to(memory_format=torch.channels_last)


def shipped_autoencoder() -> torch.nn.Sequential:
    state, network = load_file(AUTOENCODER), new_autoencoder(0)
    network.load_state_dict({name.replace("taesd_encoder", "0").replace("taesd_decoder", "1"): tensor
                             for name, tensor in state.items()
                             if name.startswith("taesd")})
    return network.requires_grad_(False)


def autoencoder_task(autoencoder: torch.nn.Sequential, training: list[Path], held_back: list[Path],
                     device: torch.device, batch_scale: int) -> Task:
    pictures = Pool(load_pictures(training, SHORT_SIDES), device)
    test = load_squares(held_back, 256)

    def loss(network, generator):
        encoder, decoder = network
        crops, _ = pictures.crops(BATCH * batch_scale, CROP, generator)
        x, noise = own_part(*prepare(crops, generator, LATENT_NOISE))
        with half_precision(device):
            z = encoder(x)
            restored = decoder(z + noise)
        return (restored.float() - x).square().mean() + LATENT_WEIGHT * latent_error(z.float())

    def validate(network):
        encoder, decoder = network
        with half_precision(device):
            values = [psnr(decoder(encoder(x)).float(), x) for x in to_float(test).to(device).split(1)]
        return torch.cat(values).mean().item()

    return Task("autoencoder", autoencoder, loss, validate)


def latent_error(z: torch.Tensor) -> torch.Tensor:
    """How far each channel of latents (B, C, H, W) is from a mean of 0 and its deviation."""
    return (z.mean((0, 2, 3)).square() + (z.std((0, 2, 3)) - LATENT_STD).square()).mean()


def prepare(crops: torch.Tensor, generator: torch.Generator, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 crops (B, 3, H, W) as what to restore, mirrored half of the time, and the noise (B, C, H / 8, W / 8) for
    its latent.
    """
    if torch.rand(1, generator=generator) < 0.5:
        crops = crops.flip(-1)
    batch, _, height, width = crops.shape
    noises = noise * torch.randn(batch, CHANNELS, height // 8, width // 8, generator=generator)
    return to_float(crops).contiguous(memory_format=torch.channels_last), sent(noises, crops.device)


def encode_all(encoder: torch.nn.Module, pictures: Iterable[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Latents (C, H / 8, W / 8) of uint8 pictures, as the encoder makes them."""
    with torch.inference_mode(), half_precision(device):
        return [encoder(to_float(x[None].to(device)).contiguous(memory_format=torch.channels_last))[0].float().cpu()
                for x in pictures]
