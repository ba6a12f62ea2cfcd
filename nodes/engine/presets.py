"""Choices of StyleID Sampler that set several of its values at once."""

from functools import wraps
from typing import NamedTuple

from comfy.model_patcher import ModelPatcher

from . import logger
from .families import family_of


class Look(NamedTuple):
    """What is asked of a result; the defaults are the paper's."""
    gamma: float = 0.75
    temperature: float = 1.5
    color_strength: float = 1.0
    blocks: str = "auto"
    weight: float = 1.0


CUSTOM = "custom"
PRESETS = {  # docs/frontier.md has what they were chosen by
    "paper": Look(),
    "balanced": Look(gamma=0.5, weight=0.93),
    "subtle": Look(gamma=0.75, weight=0.8, color_strength=0.6),
    "strong": Look(gamma=0.25, weight=0.97),
    "colors only": Look(blocks=""),
    "SDXL (AttenST)": Look(color_strength=0.6, blocks="4-5"),  # arXiv 2503.07307
}


def filled_in(execute):
    """`execute` of a node, whose missing inputs are filled in from its `preset`.

    Given values win, also defaults: the page has filled the widgets already, and a link may bring another value.
    """
    @wraps(execute)
    def filled(cls, *values, **given):
        preset = PRESETS.get(given.get("preset"))
        if preset is None:
            return execute(cls, *values, **given)
        for name, value in preset._asdict().items():
            if given.setdefault(name, value) != value:
                logger.info("%s is %s, as it is given, and not %s as in the preset %s.", name, given[name], value,
                            given["preset"])
        return execute(cls, *values, **given)

    return filled


def at_strength(model: ModelPatcher, strength: float) -> tuple[float, float]:
    """(gamma, weight) for a strength from 0, the content, to 1, as much style as there is.

    What the weight does is in its odds to the picture's own keys, so it goes towards 1 in ever smaller steps.
    """
    gamma = 1 - (1 - family_of(model).LEAST_GAMMA) * strength
    return round(gamma, 4), round(1 - (1 - strength) ** 3.5, 4)
