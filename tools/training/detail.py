"""The autoencoder trained on for LPIPS (Zhang et al. 2018, arXiv 1801.03924) beside absolute error, as squared error restores a blur."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..demo.measures import fine_energy, psnr
from .autoencoder import BATCH, CROP, LATENT_WEIGHT, SHORT_SIDES, latent_error, prepare
from .loop import Task, half_precision, own_part
from .pictures import load_pictures, load_squares, random_crops, to_float

LPIPS_SHARE = 0.25  # of the loss; a larger one invents detail
LPIPS_STRIDE = 4  # of AlexNet's first convolution; it would leave a grid if it saw every crop from the same corner
LATENT_NOISE = 0.1
STROKES_IN_BATCH = 1
AVERAGE_DECAY = 0.995

Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # of each pair of pictures (B, 3, H, W) in 0..1


def detail_task(autoencoder: torch.nn.Sequential, training: list[Path], strokes: list[Path], held_back: list[Path], lpips: Distance,
                device: torch.device) -> Task:
    """`strokes` are drawn pictures that are in every batch, at their own size."""
    pictures, drawn = load_pictures(training, SHORT_SIDES), load_pictures(strokes, (512,))
    test = load_squares(held_back, 256)

    def loss(network, generator):
        encoder, decoder = network
        x, noise = own_part(*prepare(crops_with_strokes(pictures, drawn, generator), generator, device, LATENT_NOISE))
        with half_precision(device):
            z = encoder(x)
            restored = decoder(z + noise).float()
        return perceptual_error(restored, x, lpips, generator) + LATENT_WEIGHT * latent_error(z.float())

    def validate(network):
        return restoration(network, test, lpips, device)["lpips"]

    return Task("detail", autoencoder, loss, validate, AVERAGE_DECAY)


def crops_with_strokes(pictures: list[torch.Tensor], drawn: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """A batch of uint8 crops, some of them of pictures `drawn` by the script."""
    counts = ((pictures, BATCH - STROKES_IN_BATCH), (drawn, STROKES_IN_BATCH))
    return torch.cat([random_crops(source, count, CROP, generator)[0] for source, count in counts])


def perceptual_error(restored: torch.Tensor, x: torch.Tensor, lpips: Distance, generator: torch.Generator) -> torch.Tensor:
    """Absolute error, and LPIPS for its share of it."""
    top, left = torch.randint(LPIPS_STRIDE, (2,), generator=generator).tolist()
    distance = lpips(restored[..., top:, left:], x[..., top:, left:]).mean()
    return (1 - LPIPS_SHARE) * (restored - x).abs().mean() + LPIPS_SHARE * distance


def restoration(autoencoder: torch.nn.Sequential, pictures: torch.Tensor, lpips: Distance, device: torch.device) -> dict[str, float]:
    """Means over uint8 `pictures` (B, 3, H, W); the fine energy is a share of the picture's own."""
    values = []
    for x in to_float(pictures).to(device).split(1):
        with half_precision(device):
            restored = autoencoder(x).float().clamp(0, 1)
        values.append(torch.cat([psnr(restored, x), lpips(restored, x), fine_energy(restored) / fine_energy(x)]))
    return dict(zip(("psnr", "lpips", "fine_energy"), torch.stack(values).mean(0).tolist()))
