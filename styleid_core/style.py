"""What is injected into a sampling."""

from typing import NamedTuple

from torch import Tensor

from .curves import Curve, progress
from .features import Features

INJECT_INTO = {"both": ("cond", "uncond"), "cond": ("cond",), "uncond": ("uncond",)}


class Style(NamedTuple):
    """One style of an injection and its settings.

    content      the Features that give queries, of the same blocks as `features`
    features     the style's, which give keys and values
    gamma, tau   as in `attention.mix_query_input`
    inject_into  one of INJECT_INTO
    start, end   the part of the sampling, as ComfyUI counts it (0: pure noise, 1: the picture)
    weight       of its attention, as in `attend`
    mask         (1 or the content's batch, H, W) in 0..1: a factor on the weight over the picture; None: 1
    style_mask   (1, H, W) in 0..1: which of the style's tokens give keys and values, as `masks.kept_tokens`; None: all
    auto_tau     whether tau is 1 and `attend.temperatures` are taken, for each block, head and step
    *_curve      factors on gamma, tau and weight, from 0 at the noisiest inverted step to 1 at the last; None: 1
    """
    content: Features
    features: Features
    gamma: float
    tau: float
    inject_into: str = "both"
    start: float = 0.0
    end: float = 1.0
    weight: float = 1.0
    mask: Tensor | None = None
    style_mask: Tensor | None = None
    auto_tau: bool = False
    gamma_curve: Curve | None = None
    tau_curve: Curve | None = None
    weight_curve: Curve | None = None

    def at(self, sigma: float) -> "Amounts":
        x = progress(self.content.sigmas, sigma)
        return Amounts(gamma=min(along(self.gamma, self.gamma_curve, x), 1.0),
                       tau=along(1.0 if self.auto_tau else self.tau, self.tau_curve, x),
                       weight=along(self.weight, self.weight_curve, x))


class Amounts(NamedTuple):
    """gamma, tau and weight at one sigma of the sampling; gamma is at most 1, and none is below 0."""
    gamma: float
    tau: float
    weight: float


def along(value: float, curve: Curve | None, x: float) -> float:
    """`value` as a curve multiplies it at x, never below 0."""
    return max(value if curve is None else value * curve(x), 0.0)
