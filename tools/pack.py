"""The pack, loaded by ComfyUI's own loader in this process. Import tools.in_process first."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import nodes

from .host import ROOT

NODES = ["CaptureSelfAttention", "DDIMInvert", "LatentAdaIN", "InjectStyleKV", "StyleIDSampler", "StyleIDOptions",
         "StyleIDStrength", "StyleIDCurve", "StyleIDSweep", "StyleIDStartFrequencies", "StyleIDPositions",
         "FireFlowSampler", "SaveStyleIDFeatures", "LoadStyleIDFeatures", "StyleIDScores"]


def load_pack(folder: Path = ROOT) -> SimpleNamespace:
    """pack.StyleIDSampler(...) and the other nodes, called as ComfyUI does; each gives the tuple of its outputs."""
    assert asyncio.run(nodes.load_custom_node(str(folder)))

    def node(name):
        return lambda **inputs: nodes.NODE_CLASS_MAPPINGS[name].execute(**inputs).result

    return SimpleNamespace(**{name: node(name) for name in NODES})


def stylize(pack: SimpleNamespace, **inputs) -> dict:
    """LATENT of StyleIDSampler; what is an input of StyleIDOptions comes through that node."""
    known = [each.id for each in nodes.NODE_CLASS_MAPPINGS["StyleIDOptions"].GET_SCHEMA().inputs]
    options = {name: inputs.pop(name) for name in known if name in inputs}
    if options:
        [inputs["options"]] = pack.StyleIDOptions(**options)
    return pack.StyleIDSampler(**inputs)[0]
