"""What is done to latents alone: the start of a sampling re-colored, or given other frequencies."""

import torch
from comfy.sample import prepare_noise

from ...styleid_core.adain import adain
from ...styleid_core.frequencies import with_other_frequencies
from ...styleid_core.masks import on_grid
from . import checks


def recolor(content: dict, style: dict, strength: float, mask: torch.Tensor | None = None,
            style_mask: torch.Tensor | None = None) -> dict:
    """Latent AdaIN: the content LATENT with the other's channel means and deviations, over what the MASKs weigh."""
    checks.warn_unused_mask(style, "style")
    z_content, z_style = checks.require_pictures(content, style)
    checks.require_same_channels(z_content, z_style)
    weights = [None if given is None else latent_mask(name, given, z) for name, given, z in (
        ("mask", mask, z_content), ("style_mask", style_mask, z_style))]
    if style_mask is not None:
        checks.require_measurable(weights[1])
    return content | {"samples": adain(z_content, z_style, strength, *weights)}


def start_frequencies(noise: dict, inner: float, outer: float, keep: float, seed: int) -> dict:
    """The LATENT of an inversion with new noise in a band of its frequencies, as StyleID Start Frequencies says."""
    z = checks.require_picture(noise, "noise")
    picture = z.flatten(1, 2) if z.ndim == 5 else z
    changed = with_other_frequencies(picture, prepare_noise(picture, seed).to(z), inner, outer, keep)
    return noise | {"samples": changed.view_as(z)}


def latent_mask(name: str, mask: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """A MASK over the picture, averaged on the grid of its latent: (B or 1, 1, ..., h, w)."""
    mask = checks.require_mask(name, mask)
    checks.require_mask_batch(name, len(mask), len(samples))
    height, width = samples.shape[-2:]
    return on_grid(mask, (height, width)).view(len(mask), *(1,) * (samples.ndim - 3), height, width).to(samples)
