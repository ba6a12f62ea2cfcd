"""The autoencoder, or its decoder alone, trained on for LPIPS (Zhang et al. 2018, arXiv 1801.03924) beside absolute
error, as squared error restores a blur.
"""

from collections.abc import Callable
from pathlib import Path

import torch

from ..demo.measures import fine_energy, psnr
from .autoencoder import BATCH, CROP, LATENT_WEIGHT, SHORT_SIDES, latent_error, prepare
from .loop import Task, half_precision, own_part
from .pictures import Pool, load_pictures, load_squares, to_float

LPIPS_SHARE = 0.25  # of the loss; a larger one invents detail
DECODERS_LPIPS_SHARE = 0.6  # at 0.25 a long run sinks to a fine energy of 0.46
LPIPS_STRIDE = 4  # of AlexNet's first convolution; it would leave a grid if it saw every crop from the same corner
LATENT_NOISE = 0.1
STROKES_IN_BATCH = 1
AVERAGE_DECAY = 0.995

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of each pair of pictures (B, 3, H, W) in 0..1
# What to restore (B, 3, H, W) in 0..1, and the noise (B, C, H / 8, W / 8) for its latent.
Batch = tuple[torch.Tensor, torch.Tensor]


def detail_task(autoencoder: torch.nn.Sequential, training: list[Path], strokes: list[Path], held_back: list[Path],
                lpips: Distance, device: torch.device, batch_scale: int) -> Task:
    """`strokes` are drawn pictures that are in every batch, at their own size."""
    draw, test = drawer(training, strokes, device, batch_scale), load_squares(held_back, 256)

    def loss(network, generator):
        encoder, decoder = network
        x, noise = draw(generator)
        with half_precision(device):
            z = encoder(x)
            restored = decoder(z + noise).float()
        return perceptual_error(restored, x, lpips, LPIPS_SHARE, generator) + LATENT_WEIGHT * latent_error(z.float())

    def validate(network):
        return restoration(network, test, lpips, device)["lpips"]

    return Task("detail", autoencoder, loss, validate, AVERAGE_DECAY)


def decoder_task(autoencoder: torch.nn.Sequential, training: list[Path], strokes: list[Path], held_back: list[Path],
                 lpips: Distance, device: torch.device, batch_scale: int) -> Task:
    """The same for the decoder alone, so that models of the encoder's latents stay as good as they are."""
    draw, test = drawer(training, strokes, device, batch_scale), load_squares(held_back, 256)
    encoder, decoder = autoencoder

    def loss(network, generator):
        x, noise = draw(generator)
        with half_precision(device):
            restored = network(encoder(x) + noise).float()
        return perceptual_error(restored, x, lpips, DECODERS_LPIPS_SHARE, generator)

    def validate(network):
        return restoration(torch.nn.Sequential(encoder, network), test, lpips, device)["lpips"]

    return Task("decoder", decoder, loss, validate, AVERAGE_DECAY)


def drawer(training: list[Path], strokes: list[Path], device: torch.device,
           batch_scale: int) -> Callable[[torch.Generator], Batch]:
    """Draws this process's part of a batch, a part of it from pictures of `strokes`."""
    pools = Pool(load_pictures(training, SHORT_SIDES), device), Pool(load_pictures(strokes, (512,)), device)
    counts = (BATCH - STROKES_IN_BATCH) * batch_scale, STROKES_IN_BATCH * batch_scale

    def draw(generator: torch.Generator) -> Batch:
        crops = torch.cat([pool.crops(count, CROP, generator)[0] for pool, count in zip(pools, counts)])
        return own_part(*prepare(crops, generator, LATENT_NOISE))

    return draw


def perceptual_error(restored: torch.Tensor, x: torch.Tensor, lpips: Distance, share: float,
                     generator: torch.Generator) -> torch.Tensor:
    """Absolute error, and LPIPS for its `share` of it."""
    top, left = torch.randint(LPIPS_STRIDE, (2,), generator=generator).tolist()
    distance = lpips(restored[..., top:, left:], x[..., top:, left:]).mean()
    return (1 - share) * (restored - x).abs().mean() + share * distance


def restoration(autoencoder: torch.nn.Sequential, pictures: torch.Tensor, lpips: Distance,
                device: torch.device) -> dict[str, float]:
    """Means over uint8 `pictures` (B, 3, H, W); the fine energy is a share of the picture's own."""
    values = []
    for x in to_float(pictures).to(device).split(1):
        with half_precision(device):
            restored = autoencoder(x).float().clamp(0, 1)
        values.append(torch.cat([psnr(restored, x), lpips(restored, x), fine_energy(restored) / fine_energy(x)]))
    return dict(zip(("psnr", "lpips", "fine_energy"), torch.stack(values).mean(0).tolist()))
