"""The frequencies of the latent that a sampling starts from (StyleSSP, arXiv 2501.11319, as its released code has
them).
"""

import torch
from torch import Tensor

CHANNEL_WIDTH = 0.3  # of the band along the channels


def band(shape: tuple[int, int, int], inner: float, outer: float) -> Tensor:
    """M (C, H, W) over the frequencies of a latent of that shape, 0 in the middle as after `fftshift`: 1 at the lowest
    and the highest, and less where the Gaussian of width `outer` is above that of width `inner`. Widths are in units of
    Nyquist's frequency; 0 gives zeros.
    """
    if not inner or not outer:
        return torch.zeros(shape, dtype=torch.float64)
    u = [2 * torch.arange(n, dtype=torch.float64) / n - 1 for n in shape]
    across = torch.exp(-u[0] ** 2 / (2 * CHANNEL_WIDTH ** 2))[:, None, None]
    radius = u[1][:, None] ** 2 + u[2] ** 2
    return 1 + across * (torch.exp(-radius / (2 * inner ** 2)) - torch.exp(-radius / (2 * outer ** 2)))


def with_other_frequencies(z: Tensor, noise: Tensor, inner: float, outer: float, keep: float) -> Tensor:
    """z (B, C, H, W) whose frequencies inside `band` are damped to `keep` of their strength, and refilled with `noise`
    of its shape.

    The noise is brought to the range of what the same damping of the other frequencies leaves, for each picture alone.
    """
    mask = torch.fft.ifftshift(band(tuple(z.shape[1:]), inner, outer))
    spectrum = torch.fft.fftn(z.cpu().double(), dim=(1, 2, 3))  # not every GPU has double precision

    def filtered(weights: Tensor) -> Tensor:
        return torch.fft.ifftn(spectrum * weights, dim=(1, 2, 3)).real.to(z)

    low, high = filtered(mask + keep * (1 - mask)), filtered(keep * mask + 1 - mask)
    ranges = [(x.amax((1, 2, 3)) - x.amin((1, 2, 3))).view(-1, 1, 1, 1) for x in (low, noise)]
    return high + (1 - keep) * noise * (ranges[0] / ranges[1])
