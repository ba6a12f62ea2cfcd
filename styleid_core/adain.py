"""Initial latent AdaIN (StyleID section 3.4, eq. 8; AdaIN: Huang & Belongie 2017, arXiv 1703.06868)."""

import torch
from torch import Tensor


def adain(content: Tensor, style: Tensor, strength: float = 1.0, mask: Tensor | None = None,
          style_mask: Tensor | None = None) -> Tensor:
    """Give `content` (B, C, ..., H, W) the channel means and deviations of `style` (B or 1, C, ..., any H, any W), per
    image.

    `strength` goes from 0 (content unchanged) to 1 (the paper). Deviations are unbiased, over height and width. The
    masks, both (B or 1, 1, ..., H, W) in 0..1 of their picture, weigh what is measured; the content changes where
    `mask` is above 0, as far as it says. Where `mask` leaves nothing, it stays.
    One content with several styles, or the reverse, broadcasts over the batch.
    """
    (mu_c, sigma_c), (mu_s, sigma_s) = moments(content, mask), moments(style, style_mask)
    # A constant channel has no pattern to scale, and takes the style's mean.
    z_cs = sigma_s * (content - mu_c) / sigma_c.clamp_min(1e-6) + mu_s
    return content.lerp(z_cs, strength if mask is None else strength * mask)


def moments(z: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean and unbiased deviation of each channel of z (B, C, ..., H, W), weighed by (B or 1, 1, ..., H, W) or not."""
    if weights is None:
        return z.mean((-2, -1), keepdim=True), z.std((-2, -1), keepdim=True)
    total = weights.sum((-2, -1), keepdim=True).clamp_min(1e-12)
    mean = (weights * z).sum((-2, -1), keepdim=True) / total
    # Of weights that are all 1 the divisor is the number of values less one.
    divisor = (total - (weights ** 2).sum((-2, -1), keepdim=True) / total).clamp_min(1e-12)
    return mean, torch.sqrt((weights * (z - mean) ** 2).sum((-2, -1), keepdim=True) / divisor)
