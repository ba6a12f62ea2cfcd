"""Choices of StyleID Sampler that set several of its values at once."""

from typing import NamedTuple


class Preset(NamedTuple):
    gamma: float = 0.75
    temperature: float = 1.5
    color_strength: float = 1.0
    blocks: str = "auto"


CUSTOM = "custom"
PRESETS = {
    "paper": Preset(),
    "subtle": Preset(gamma=0.9, color_strength=0.6),
    "strong": Preset(gamma=0.4),
    "colors only": Preset(blocks=""),
    "SDXL (AttenST)": Preset(color_strength=0.6, blocks="4-5"),  # arXiv 2503.07307
}


def chosen(name: str, values: Preset) -> Preset:
    """`values` as they are set on the node, or those of the preset `name`; ValueError for one that was set to something else beside it.

    On the page a preset fills in the values, and changing one makes it "custom"; in a prompt, values may be left at their defaults.
    """
    if name == CUSTOM:
        return values
    preset = PRESETS[name]
    for field, value, own, default in zip(Preset._fields, values, preset, Preset()):
        if value not in (own, default):
            raise ValueError(f"The preset {name} sets {field} to {own!r}, and {field} is {value!r}. Set the preset to {CUSTOM}, or leave "
                             f"{field} at {default!r}.")
    return preset
