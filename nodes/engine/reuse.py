"""Inversions that StyleID Sampler need not make again.

ComfyUI keeps what a node gives, and that is a picture here: the inversions behind it would be gone. A node may expand
into those it is made of, but ComfyUI's default cache drops what a new content does not use before the expansion has
said what it uses, and the style would be inverted again. So the pack remembers by itself: the last inversion of a
latent for as long as ComfyUI holds that very latent, and no more of them than `ROOM` has place for, but always those of
one transfer.
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
    positive: list  # held, so that no other objects take the place of its own in `recipe`
    noise: torch.Tensor
    features: Features


_known: list[Known] = []  # the last used at the end


def recipe_of(model: ModelPatcher, positive: list, *settings) -> tuple:
    """What an inversion is made with: equal for the same MODEL, contents of a CONDITIONING, and settings."""
    return weakref.ref(model), identity(positive), *settings


def identity(value):
    """Equal for lists and dicts of the same objects and equal numbers."""
    if isinstance(value, dict):
        return tuple(sorted((key, identity(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return tuple(map(identity, value))
    return value if isinstance(value, (int, float, str, type(None))) else id(value)


def recall(latent: torch.Tensor, recipe: tuple, blocks: list[Block]) -> tuple[torch.Tensor, Features] | None:
    """(noise, features of `blocks`) of the same latent inverted by the same recipe, if all of them were captured."""
    for i, known in enumerate(_known):
        if known.latent() is latent and known.recipe == recipe and set(blocks) <= set(known.features.blocks):
            _known.append(_known.pop(i))
            return known.noise, only_blocks(known.features, blocks)
    return None


def remember(latent: torch.Tensor, recipe: tuple, positive: list, noise: torch.Tensor, features: Features):
    """Features on a GPU are not remembered: ComfyUI could not free that memory."""
    if any(tensor.device.type != "cpu" for tensor in tensors_in(features.source)):
        return
    features = features._replace(latent=features.latent.clone())  # else they would hold the latent whose end is theirs
    _known[:] = [known for known in _known if known.latent() is not latent]
    _known.append(Known(weakref.ref(latent, forget), recipe, positive, noise, features))
    room = ROOM * comfy.model_management.total_ram * 2 ** 20
    while len(_known) > 2 and size([known.features for known in _known]) > room:
        forget_oldest()


def forget(latent: weakref.ref):
    _known[:] = [known for known in _known if known.latent is not latent]


def forget_oldest() -> bool:
    """Whether there was one."""
    return bool(_known and _known.pop(0))
