"""Color: the RGB-uv histogram and its Hellinger distance (HistoGAN, Afifi et al. 2021, arXiv:2011.11731, equations 2 to
4).
"""

import math

import torch

BINS = 64
EXTENT = 3.0  # of the log-chroma plane, to each side
FALL_OFF = 0.02
SIDE = 150  # larger pictures are shrunk to it
EPSILON = 1e-6


def rgb_uv_histogram(picture: torch.Tensor) -> torch.Tensor:
    """(3, BINS, BINS), summing to 1, of a picture (3, H, W) in 0..1.

    A plane for each channel, over the log-ratios of that channel to the other two, weighted by intensity.
    """
    if max(picture.shape[1:]) > SIDE:
        picture = torch.nn.functional.interpolate(picture[None], (SIDE, SIDE), mode="bilinear", align_corners=False)[0]
    pixels = picture.clamp(0, 1).flatten(1)
    intensity = (pixels.square().sum(0) + EPSILON).sqrt()
    logs = (pixels + EPSILON).log()
    planes = []
    for channel, (u, v) in enumerate(((1, 2), (0, 2), (0, 1))):
        near_u, near_v = (kernel(logs[channel] - logs[other]) for other in (u, v))
        planes.append((near_u * intensity) @ near_v.T)
    histogram = torch.stack(planes)
    return histogram / histogram.sum()


def kernel(chroma: torch.Tensor) -> torch.Tensor:
    """Inverse-quadratic nearness (BINS, N) of N values to the bins."""
    bins = torch.linspace(-EXTENT, EXTENT, BINS, device=chroma.device)
    return 1 / (1 + ((chroma - bins[:, None]) / FALL_OFF).square())


def hellinger(a: torch.Tensor, b: torch.Tensor) -> float:
    """0 for equal histograms, 1 for histograms without a common bin."""
    return (a.sqrt() - b.sqrt()).norm().item() / math.sqrt(2)
