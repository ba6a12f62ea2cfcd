"""Tells on a MODEL which blocks its inversions record."""

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

    Sampling is not changed. ValueError for a model of no family, or if a part of `blocks` names no self-attention.
    """
    m = model.clone()
    request = CaptureRequest(family_of(model).select(model, blocks), dtype, device)
    m.model_options[host.TRANSFORMER_OPTIONS][CAPTURE] = request
    return m


def request_nothing(model: ModelPatcher) -> ModelPatcher:
    """A clone of MODEL that records nothing when it is inverted, whatever MODEL asks for."""
    m = model.clone()
    m.model_options[host.TRANSFORMER_OPTIONS].pop(CAPTURE, None)
    return m


def requested_capture(model: ModelPatcher) -> CaptureRequest:
    """The request on MODEL, or one of no blocks."""
    return model.model_options[host.TRANSFORMER_OPTIONS].get(CAPTURE, CaptureRequest([], "auto", "auto"))
