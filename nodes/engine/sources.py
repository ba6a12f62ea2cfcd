"""Where the features of a step come from in a sampling run: kept, in memory or in a file, or computed again from the inversion's calls.

A reader belongs to one run and has three methods:

check(name, features, model)    ValueError for features that this MODEL cannot sample with
calls(sigma)                    the model calls that have to be made before `take`
take(sigma, computed)           {block: n (batch, tokens, channels), as it is kept}, where `computed` is an iterator of what those gave
"""

import weakref
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, Kept, Reader, nearest_step
from ...styleid_core.storage import map_tensors, move
from ...styleid_core.style_file import InFile
from . import checks
from .company import hook_references
from .families import family_of
from .origin import fingerprint, same_weights


class ModelCall(NamedTuple):
    """A call of the diffusion model in an inversion, to be made again; tensors are in RAM."""
    x: torch.Tensor
    timesteps: torch.Tensor
    context: torch.Tensor
    y: torch.Tensor | None
    control: dict | None
    kwargs: dict
    options: MappingProxyType  # the transformer_options, less those of one run
    model: weakref.ref  # whose diffusion model was called
    hooks: frozenset  # as `hook_references`


class Recomputed(NamedTuple):
    """The calls of an inversion, one for each sigma of `Features`, in place of what they gave."""
    calls: list[ModelCall]

    def only(self, indices: list[int]) -> "Recomputed":
        return self


class KeptReader:
    def __init__(self, features: Features, model: ModelPatcher):
        self.reader = Reader(features, model.load_device)

    @staticmethod
    def check(name: str, features: Features, model: ModelPatcher):
        if features.origin and not same_weights(features.origin.weights, fingerprint(model)):
            checks.other_weights(name)

    def calls(self, sigma: float) -> list[ModelCall]:
        return []

    def take(self, sigma: float, computed: Iterator) -> dict[Block, torch.Tensor]:
        return self.reader.read(sigma)


class RecomputedReader:
    def __init__(self, features: Features, model: ModelPatcher):
        self.features, self.model = features, model

    @staticmethod
    def check(name: str, features: Features, model: ModelPatcher):
        if features.source.calls[0].model() not in (None, model.model):
            raise ValueError(f"The {name}_features are recomputed, by a model that was not the one that is sampled. Invert with the same "
                             "checkpoint, or let Capture Self-Attention keep them (feature_device auto).")

    def calls(self, sigma: float) -> list[ModelCall]:
        call = self.features.source.calls[nearest_step(self.features, sigma)]
        if call.hooks != hook_references(self.model):
            raise ValueError("The features are recomputed, and the prompts of inversion and sampling have different LoRA hooks. Connect "
                             "the same hooks to both, or let Capture Self-Attention keep the features (feature_device auto).")
        return [call]

    def take(self, sigma: float, computed: Iterator) -> dict[Block, torch.Tensor]:
        return next(computed)


READERS = {Kept: KeptReader, InFile: KeptReader, Recomputed: RecomputedReader}  # by the type of a Features' source


def replay(executor, call: ModelCall, features: dict | None = None, *, model: ModelPatcher, blocks: list[Block], device: torch.device,
           options: dict) -> dict:
    """`features`, with the {block: n (batch, tokens, channels)} of making `call` again inside another, whose `executor` and `options` are
    given.
    """
    features = {} if features is None else features
    options = {name: options[name] for name in ("sigmas", "sample_sigmas") if name in options} | call.options
    *arguments, kwargs = map_tensors(lambda tensor: move(tensor, device), list(call[:6]))
    family_of(model).record(model, options, blocks, features, (len(call.x), *call.x.shape[-2:]))
    options = family_of(model).call_options(model, options, kwargs)
    # Past the other wrappers, which watch the sampling and not this.
    executor.original(*arguments, options, **kwargs)
    return features


def patched(call: ModelCall) -> bool:
    """Whether other nodes take part in it, which may remember how far it has come, and would take two calls at a time for one."""
    return any(any(call.options.get(kind, {}).values()) for kind in ("patches", "patches_replace"))


def joined(calls: list[ModelCall]) -> ModelCall | None:
    """All calls as one batch, or None for calls that differ in more than their images and prompts."""
    first, columns = calls[0], list(zip(*(call[:4] for call in calls)))
    alike = all(len({None if tensor is None else tensor.shape[1:] for tensor in column}) == 1 for column in columns)
    same_patches = all(call.options.get(name) == first.options.get(name) for call in calls for name in ("patches", "patches_replace"))
    if not (alike and same_patches) or any(call.control or call.kwargs for call in calls):
        return None
    return ModelCall(*(None if column[0] is None else torch.cat(column) for column in columns), None, {}, *first[6:])


def replay_all(calls: list[ModelCall], replay: Callable[[ModelCall], dict], fits: Callable[[list[int]], bool]) -> list[dict]:
    """What `replay` gives for each of the calls, which are made in one batch where they can be and `fits(shape of x)`."""
    together = joined(calls) if len(calls) > 1 else None
    if together is None or not fits(list(together.x.shape)):
        return [replay(call) for call in calls]
    split = {block: n.split([len(call.x) for call in calls]) for block, n in replay(together).items()}
    return [{block: parts[i] for block, parts in split.items()} for i in range(len(calls))]
