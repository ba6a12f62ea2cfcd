"""Initial latent AdaIN (StyleID section 3.4, eq. 8; AdaIN: Huang & Belongie 2017, arXiv 1703.06868)."""

from torch import Tensor


def adain(content: Tensor, style: Tensor, strength: float = 1.0) -> Tensor:
    """Give `content` (B, C, H, W) the channel means and deviations of `style` (B or 1, C, any H, any W), per image.

    `strength` goes from 0 (content unchanged) to 1 (the paper). Deviations are unbiased, over height and width.
    One content with several styles, or the reverse, broadcasts over the batch.
    """
    mu_c, mu_s = (z.mean(dim=(2, 3), keepdim=True) for z in (content, style))
    sigma_c, sigma_s = (z.std(dim=(2, 3), keepdim=True) for z in (content, style))
    # A constant channel has no pattern to scale, and takes the style's mean.
    z_cs = sigma_s * (content - mu_c) / sigma_c.clamp_min(1e-6) + mu_s
    return content.lerp(z_cs, strength)
