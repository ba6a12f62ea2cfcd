"""Inversions that StyleID Sampler need not make again.

ComfyUI caches a node's outputs, here only the picture. To expand into several nodes does not help: with a new content,
ComfyUI's default cache drops the style's inversion before the expansion asks for it. So the pack remembers by itself
the last inversion of each latent, as long as ComfyUI holds that very latent, and up to `ROOM`; but always two, as one
transfer needs both.
"""

import weakref
from typing import NamedTuple

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, only_blocks
from ...styleid_core.storage import size, tensors_in

ROOM = 0.25  # of the RAM


class Known(NamedTuple):
    latent: weakref.ref
    recipe: tuple
    positive: list  # held, as `recipe` has ids of its objects, and Python gives those of dead ones again
    noise: torch.Tensor
    features: Features


_known: list[Known] = []  # the last used at the end


def recipe_of(model: ModelPatcher, positive: list, *settings) -> tuple:
    """What an inversion is made with: equal for the same MODEL, contents of a CONDITIONING, and settings."""
    return weakref.ref(model), identity(positive), *settings


def identity(value):
    """A key to compare: numbers and text by their values, other objects by identity."""
    if isinstance(value, dict):
        return tuple(sorted((key, identity(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(identity, value))
    return value if isinstance(value, (int, float, str, type(None))) else id(value)


def recall(latent: torch.Tensor, recipe: tuple, blocks: list[Block]) -> tuple[torch.Tensor, Features] | None:
    """The remembered (noise, features of `blocks`), if all of those were captured by the same recipe."""
    for i, known in enumerate(_known):
        if known.latent() is latent and known.recipe == recipe and set(blocks) <= set(known.features.blocks):
            _known.append(_known.pop(i))
            return known.noise, only_blocks(known.features, blocks)
    return None


def remember(latent: torch.Tensor, recipe: tuple, positive: list, noise: torch.Tensor, features: Features):
    """Remembers an inversion, unless its features are on a GPU: ComfyUI could not free that memory."""
    if any(tensor.device.type != "cpu" for tensor in tensors_in(features.source)):
        return
    features = features._replace(latent=features.latent.clone())  # to hold the latent itself would keep both for ever
    _known[:] = [known for known in _known if known.latent() is not latent]
    _known.append(Known(weakref.ref(latent, forget), recipe, positive, noise, features))
    room = ROOM * comfy.model_management.total_ram * 2 ** 20
    while len(_known) > 2 and size([known.features for known in _known]) > room:
        forget_oldest()


def forget(latent: weakref.ref):
    _known[:] = [known for known in _known if known.latent is not latent]


def forget_oldest() -> bool:
    """Drops the inversion that was used longest ago; whether there was one."""
    return bool(_known and _known.pop(0))
