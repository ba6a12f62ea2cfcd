"""What Capture Self-Attention asks of the inversions of a MODEL."""

from typing import NamedTuple

from comfy.model_patcher import ModelPatcher

from ...styleid_core.blocks import Block
from . import host
from .families import family_of

CAPTURE = "styleid_capture"  # among transformer_options
RECOMPUTE = "recompute"
DEVICES = ["auto", "gpu", "cpu", RECOMPUTE]


class CaptureRequest(NamedTuple):
    blocks: list[Block]
    dtype: str  # one of STORAGES
    device: str  # one of DEVICES


def request_capture(model: ModelPatcher, blocks: str, dtype: str = "auto", device: str = "auto") -> ModelPatcher:
    """A clone of MODEL that asks for `blocks` to be recorded when it is inverted.

    Sampling with it changes nothing. ValueError for a model of no family, or a text that names none of its
    self-attentions.
    """
    m = model.clone()
    request = CaptureRequest(family_of(model).select(model, blocks), dtype, device)
    m.model_options[host.TRANSFORMER_OPTIONS][CAPTURE] = request
    return m


def requested_capture(model: ModelPatcher) -> CaptureRequest:
    """What `request_capture` asked for, which may be no blocks."""
    return model.model_options[host.TRANSFORMER_OPTIONS].get(CAPTURE, CaptureRequest([], "auto", "auto"))
