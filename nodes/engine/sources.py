"""Where the features of a step come from in a sampling run: kept, in memory or in a file, or computed again from the inversion's calls."""

import weakref
from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, nearest_step
from ...styleid_core.storage import map_tensors
from . import checks
from .company import hook_references
from .families import family_of
from .origin import fingerprint, same_weights


class ModelCall(NamedTuple):
    """A call of the diffusion model in an inversion, to be made again; its tensors are in RAM.

    arguments  x (B, C, H, W) first, and then in their order, but for the transformer_options
    kwargs     what it was called with besides
    options    the transformer_options, less those of one run
    model      whose diffusion model was called
    hooks      as `hook_references`
    """
    arguments: list
    kwargs: dict
    options: MappingProxyType
    model: weakref.ref
    hooks: frozenset

    @property
    def x(self) -> torch.Tensor:
        return self.arguments[0]


class Recomputed(NamedTuple):
    """The calls of an inversion, one for each sigma of `Features`, in place of what they gave."""
    calls: list[ModelCall]

    def only(self, indices: list[int]) -> "Recomputed":
        return self


def check_source(name: str, features: Features, model: ModelPatcher):
    """ValueError for features, of the content or the style as `name` says, that this MODEL cannot compute again."""
    source = features.source
    if isinstance(source, Recomputed):
        if source.calls[0].model() not in (None, model.model):
            raise ValueError(f"The {name}_features are recomputed, by a model that was not the one that is sampled. Invert with the same "
                             "checkpoint, or let Capture Self-Attention keep them (feature_device auto).")
    elif features.origin and not same_weights(features.origin.weights, fingerprint(model)):
        checks.other_weights(name)


def call_at(features: Features, sigma: float, patcher: ModelPatcher) -> ModelCall:
    """What computes recomputed features at the step nearest to `sigma`; ValueError where `patcher` has other LoRA hooks now."""
    call = features.source.calls[nearest_step(features, sigma)]
    if call.hooks != hook_references(patcher):
        raise ValueError("The features are recomputed, and the prompts of inversion and sampling have different LoRA hooks. Connect "
                         "the same hooks to both, or let Capture Self-Attention keep the features (feature_device auto).")
    return call


def replay(executor, call: ModelCall, features: dict | None = None, *, model: ModelPatcher, blocks: list[Block],
           device: torch.device, options: dict) -> dict:
    """`features`, with the {block: its features} of making `call` again inside another, whose `executor` and `options` are given."""
    features = {} if features is None else features
    options = {name: options[name] for name in ("sigmas", "sample_sigmas") if name in options} | call.options
    arguments, kwargs = map_tensors(lambda tensor: tensor.to(device, non_blocking=device.type == "cuda"), [call.arguments, call.kwargs])
    family = family_of(model)
    family.record(model, options, blocks, features, (len(call.x), *call.x.shape[-2:]))
    # Past the other wrappers, which watch the sampling and not this.
    executor.original(*arguments, family.for_call(model, options, kwargs), **kwargs)
    return features


def patched(call: ModelCall) -> bool:
    """Whether other nodes take part in it, which may remember how far it has come, and would take two calls at a time for one."""
    return any(any(call.options.get(kind, {}).values()) for kind in ("patches", "patches_replace"))


def joined(calls: list[ModelCall]) -> ModelCall | None:
    """All calls as one batch, or None for calls that differ in more than their images and prompts."""
    first, *others = calls
    if any(call.kwargs or not like(call, first) for call in calls):
        return None
    columns = zip(*(call.arguments for call in calls))
    return first._replace(arguments=[torch.cat(column) if isinstance(column[0], torch.Tensor) else None for column in columns])


def like(call: ModelCall, other: ModelCall) -> bool:
    """Whether all arguments are tensors or None, of one shape for each picture, under the same patches."""
    def shapes(call):
        return [each.shape[1:] if isinstance(each, torch.Tensor) else each for each in call.arguments]

    plain = all(each is None or isinstance(each, torch.Tensor) for each in call.arguments)
    return plain and shapes(call) == shapes(other) and all(
        call.options.get(name) == other.options.get(name) for name in ("patches", "patches_replace"))


def replay_all(calls: dict[int, ModelCall], replay: Callable[[ModelCall], dict], fits: Callable[[list[int]], bool]) -> dict[int, dict]:
    """What `replay` gives for each of the calls, which are made in one batch where they can be and `fits(shape of x)`."""
    together = joined(list(calls.values())) if len(calls) > 1 else None
    if together is None or not fits(list(together.x.shape)):
        return {key: replay(call) for key, call in calls.items()}
    computed, parts, start = replay(together), {}, 0
    for key, call in calls.items():
        parts[key] = pictures(computed, start, start + len(call.x))
        start += len(call.x)
    return parts


def pictures(features: dict, start: int, end: int) -> dict:
    """Those from `start` to `end` of the batch, of {block: its features}."""
    return map_tensors(lambda tensor: tensor[start:end], features)
