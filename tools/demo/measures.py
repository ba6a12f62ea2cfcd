"""How far pictures (B, 3, H, W) in 0..1, or latents, are from each other. No trained network: small fixed filters.

Every distance is one value for each picture of the batch; 0 means equal in that respect.
"""

import math
from collections.abc import Callable

import torch

SCALES = (1.0, 2.0)  # pixels
ORIENTATIONS = tuple(math.pi * i / 4 for i in range(4))
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def share_left(distance: Callable, before: torch.Tensor, after: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Of the `distance` from `before` to `wanted` (1 or B, 3, H, W), what is left in `after`."""
    wanted = wanted.expand_as(after)
    return distance(after, wanted) / distance(before, wanted)


def psnr(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures."""
    return -10 * torch.log10((a.clamp(0, 1) - b.clamp(0, 1)).square().flatten(1).mean(1))


def color_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of the channels' means and standard deviations."""
    return (channel_statistics(a) - channel_statistics(b)).norm(dim=1)


def channel_statistics(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.mean((2, 3)), x.std((2, 3))], 1)


def saturation(x: torch.Tensor) -> torch.Tensor:
    """Mean of HSV's saturation."""
    highest = x.amax(1)
    return ((highest - x.amin(1)) / highest.clamp(min=1 / 255)).mean((1, 2))


def fine_energy(x: torch.Tensor) -> torch.Tensor:
    """Power at more than a quarter of Nyquist's frequency, under a Hann window."""
    height, width = x.shape[-2:]
    window = torch.hann_window(height)[:, None] * torch.hann_window(width)
    spectrum = torch.fft.fft2((x - x.mean((2, 3), keepdim=True)) * window.to(x))
    # Cycles for each pixel: Nyquist's is 1/2.
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)).to(x)
    return (spectrum.abs().square() * (frequency > 1 / 8)).sum((1, 2, 3))


def texture_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance of the Gram matrices of oriented edge filters, blind to color and contrast."""
    return (gram(filtered(a)) - gram(filtered(b))).flatten(1).norm(dim=1)


def structure_distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """1 - the correlation of edge strength at two pixels' scale."""
    edges = [gradient(luminance(x), 2.0).norm(dim=1).flatten(1) for x in (a, b)]
    edges = [(x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) for x in edges]
    return 1 - (edges[0] * edges[1]).mean(1)


def luminance(x: torch.Tensor) -> torch.Tensor:
    """(B, 1, H, W) of zero mean and unit deviation."""
    y = (x * torch.tensor(LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (y - y.mean((2, 3), keepdim=True)) / y.std((2, 3), keepdim=True)


def gradient(y: torch.Tensor, sigma: float) -> torch.Tensor:
    """Horizontal and vertical derivative (B, 2, H, W) of y (B, 1, H, W) under a Gaussian."""
    radius = math.ceil(3 * sigma)
    x = torch.arange(-radius, radius + 1.0)
    gaussian = torch.exp(-x.square() / (2 * sigma ** 2))
    gaussian /= gaussian.sum()
    kernel = gaussian[:, None] * (-x / sigma ** 2 * gaussian)[None]
    padded = torch.nn.functional.pad(y, [radius] * 4, mode="reflect")
    return torch.nn.functional.conv2d(padded, torch.stack([kernel, kernel.T])[:, None])


def filtered(x: torch.Tensor) -> torch.Tensor:
    """Strength (B, F, H, W) of edges in four orientations at each scale."""
    y = luminance(x)
    responses = []
    for sigma in SCALES:
        dx, dy = gradient(y, sigma).unbind(1)
        responses += [(dx * math.cos(angle) + dy * math.sin(angle)).abs() * sigma for angle in ORIENTATIONS]
    return torch.stack(responses, 1)


def gram(features: torch.Tensor) -> torch.Tensor:
    flat = features.flatten(2)
    return flat @ flat.mT / flat.shape[-1]
