"""Choices of StyleID Sampler that set several of its values at once."""

from functools import wraps
from typing import NamedTuple

from . import logger


class Look(NamedTuple):
    """What is asked of a result; the defaults are the paper's."""
    gamma: float = 0.75
    temperature: float = 1.5
    color_strength: float = 1.0
    blocks: str = "auto"


CUSTOM = "custom"
PRESETS = {
    "paper": Look(),
    "subtle": Look(gamma=0.9, color_strength=0.6),
    "strong": Look(gamma=0.4),
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
