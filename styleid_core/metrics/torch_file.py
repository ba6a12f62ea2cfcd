"""Files of torch.save. Of a foreign one nothing but tensors, numbers, texts and their containers is ever unpickled."""

import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

BROKEN = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, TypeError, AttributeError,
          AssertionError, struct.error)  # what torch.load raises, by what is broken


def load(path: Path) -> dict:
    """ValueError for a broken file, and for what is none of torch or holds no dict."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except BROKEN as error:
        raise ValueError(f"{path} is broken, or no file of weights.") from error
    if not isinstance(loaded, dict):
        raise ValueError(f"{path} is no file of weights by name.")
    return loaded


@contextmanager
def weights_of(path: Path) -> Iterator[dict[str, torch.Tensor]]:
    """For a block that fills a network with them; ValueError where they do not fit."""
    weights = load(path)
    try:
        yield weights
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path} has the weights of another network.") from error
