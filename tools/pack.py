"""The pack, loaded by ComfyUI's own loader in this process. Import tools.in_process first."""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import nodes

from .host import ROOT

NODES = ["CaptureSelfAttention", "DDIMInvert", "LatentAdaIN", "InjectStyleKV", "StyleIDSampler", "StyleIDScores"]


def load_pack(folder: Path = ROOT) -> SimpleNamespace:
    """pack.StyleIDSampler(...) and the other nodes, called as ComfyUI does; each gives the tuple of its outputs."""
    assert asyncio.run(nodes.load_custom_node(str(folder)))

    def node(name):
        return lambda **inputs: nodes.NODE_CLASS_MAPPINGS[name].execute(**inputs).result

    return SimpleNamespace(**{name: node(name) for name in NODES})
