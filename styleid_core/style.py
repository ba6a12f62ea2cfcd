"""One style of an injection, and how it is injected."""

from typing import NamedTuple

from torch import Tensor

from .curves import Curve, place
from .features import Features

INJECT_INTO = {"both": ("cond", "uncond"), "cond": ("cond",), "uncond": ("uncond",)}


class Style(NamedTuple):
    """What a sampling run attends to.

    content      the Features that give queries, of the same blocks as `features`
    features     the style's, which give keys and values
    gamma, tau   as in `attention.mix_query_input`
    inject_into  one of INJECT_INTO
    start, end   the part of the sampling, as ComfyUI counts it (0: pure noise, 1: the picture)
    weight       of its attention, as in `plan`
    mask         (1 or the content's batch, H, W) in 0..1, what the weight is multiplied by over the picture; None: 1
    style_mask   (1, H, W) in 0..1: which of the style's tokens give keys and values, as `masks.kept_tokens`; None: all
    auto_tau     whether `plan.temperatures` stand in place of tau, for each block, head and step
    *_curve      what gamma, tau and weight are multiplied by over the sampling; None: 1
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

    def at(self, sigma: float) -> tuple[float, float, float]:
        """(gamma, tau, weight) at one sigma of the sampling; gamma stays below 1, and none below 0."""
        x = place(self.content.sigmas, sigma)
        gamma, tau, weight = (max(value if curve is None else value * curve(x), 0.0) for value, curve in (
            (self.gamma, self.gamma_curve), (1.0 if self.auto_tau else self.tau, self.tau_curve), (self.weight, self.weight_curve)))
        return min(gamma, 1.0), tau, weight
