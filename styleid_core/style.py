"""One style of an injection, and how it is injected."""

from typing import NamedTuple

from .features import Features

INJECT_INTO = {"both": ("cond", "uncond"), "cond": ("cond",), "uncond": ("uncond",)}


class Style(NamedTuple):
    """What a sampling run attends to.

    content      the Features that give queries, of the same blocks as `features`
    features     the style's, which give keys and values
    gamma, tau   as in `attention.mix_query_input`
    inject_into  one of INJECT_INTO
    start, end   the part of the sampling, as ComfyUI counts it (0: pure noise, 1: the picture)
    """
    content: Features
    features: Features
    gamma: float
    tau: float
    inject_into: str = "both"
    start: float = 0.0
    end: float = 1.0
