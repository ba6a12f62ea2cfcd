"""Brings the features of a step to a sampling run: from memory, from a file, or by making inversion calls again."""

import threading
import weakref
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, Reader, batch_slice, nearest_step
from ...styleid_core.storage import map_tensors
from . import checks, host
from .families import family_of
from .lockstep import Companion
from .memory import fits_in_one_batch
from .origin import fingerprint, same_weights


class ModelCall(NamedTuple):
    """One model call of an inversion, to be made again. Its tensors are in RAM.

    arguments  by their order, x (B, C, H, W) first, without the transformer_options
    kwargs     by their names
    options    the transformer_options, without `host.OF_ONE_RUN`
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
    """The calls of an inversion instead of features, one for each sigma of `Features`."""
    calls: list[ModelCall]

    def only(self, indices: list[int]) -> "Recomputed":
        """Itself: only the blocks that are asked for are computed."""
        return self


def check_source(name: str, features: Features, model: ModelPatcher):
    """ValueError for features, of the content or the style as `name` says, that this MODEL cannot compute again."""
    source = features.source
    other_weights = features.origin and not same_weights(features.origin.weights, fingerprint(model))
    if isinstance(source, Recomputed):
        # The network may have been loaded anew.
        if other_weights or source.calls[0].model() not in (None, model.model):
            raise ValueError(f"The {name}_features are recomputed, by a model that was not the one that is sampled. "
                             "Invert with the same checkpoint, or let Capture Self-Attention keep them (feature_device "
                             "auto).")
    elif other_weights:
        checks.warn_other_weights(name)


class Read(NamedTuple):
    """What one device has at a sigma: {id of a source: {block: its features, as they are kept}}."""
    sigma: float
    features: dict[int, dict]


class Sources:
    """Owned by one sampling run of MODEL: brings features of `blocks` to each device that its calls are made on."""

    def __init__(self, model: ModelPatcher, blocks: list[Block]):
        self.model, self.blocks, self.family = model, blocks, family_of(model)
        self.locks: dict[torch.device, threading.Lock] = {}
        self.readers: dict[tuple[int, torch.device], Reader] = {}
        self.last: dict[torch.device, Read] = {}

    def at(self, sigma: float, wanted: list[Features], executor, device: torch.device,
           options: dict) -> dict[int, dict]:
        """{id of a source: {block: its features, as they are kept}}, for a model call on `device` that `executor` makes
        with these transformer_options.

        A `Companion`, which recomputes block by block, is made for each call. The caller closes it.
        """
        with self.locks.setdefault(device, threading.Lock()):
            last = self.last.get(device)
            if last is None or last.sigma != sigma:
                last = self.last[device] = Read(sigma, {})  # frees one step before the next takes memory
            missing = {id(each.source): each for each in wanted if id(each.source) not in last.features}
            kept = {key: each for key, each in missing.items() if not isinstance(each.source, Recomputed)}
            last.features.update({key: self.reader(each, device).read(sigma) for key, each in kept.items()})

            patcher = host.patcher_of(self.model, options)
            calls = {key: call_at(each, sigma, patcher) for key, each in missing.items() if key not in kept}
            replay = Replay(executor, self.model, self.blocks, device, options)
            if self.family.IN_LOCKSTEP and not any(map(patched, calls.values())):
                companions = {key: Companion(partial(replay.record, each), device) for key, each in calls.items()}
                return last.features | companions
            last.features.update(replay.all_of(calls))
            return last.features.copy()

    def reader(self, features: Features, device: torch.device) -> Reader:
        key = id(features.source), device
        if key not in self.readers:
            self.readers[key] = Reader(features, device)
        return self.readers[key]


def call_at(features: Features, sigma: float, patcher: ModelPatcher) -> ModelCall:
    """The call that gives features at the step nearest to `sigma`; ValueError where `patcher` has other LoRA hooks."""
    call = features.source.calls[nearest_step(features, sigma)]
    if call.hooks != host.hook_references(patcher):
        raise ValueError("The features are recomputed, and the prompts of inversion and sampling have different LoRA "
                         "hooks. Connect the same hooks to both, or let Capture Self-Attention keep the features "
                         "(feature_device auto).")
    return call


class Replay(NamedTuple):
    """Makes inversion calls again on `device`, inside a sampling call of MODEL with this `executor` and `options`."""
    executor: object
    model: ModelPatcher
    blocks: list[Block]
    device: torch.device
    options: dict

    def record(self, call: ModelCall, features: dict | Companion):
        """Sets features[block] for each of the blocks."""
        family = family_of(self.model)
        options = {name: self.options[name] for name in (host.SIGMAS, host.SAMPLE_SIGMAS) if name in self.options}
        options |= call.options
        arguments, kwargs = map_tensors(self.moved, [call.arguments, call.kwargs])
        family.record(self.model, options, self.blocks, features, (len(call.x), *call.x.shape[-2:]))
        # Without the other wrappers: they belong to the sampling.
        self.executor.original(*arguments, family.for_call(self.model, options, kwargs), **kwargs)

    def moved(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

    def all_of(self, calls: dict[int, ModelCall]) -> dict[int, dict]:
        """{the same key: {block: its features}}, by one batch if the calls and memory allow it."""
        together = joined(list(calls.values())) if len(calls) > 1 else None
        features: dict[int, dict] = {key: {} for key in calls}
        if together is None or not fits_in_one_batch(self.model, list(together.x.shape)):
            for key, call in calls.items():
                self.record(call, features[key])
            return features
        computed, start = {}, 0
        self.record(together, computed)
        for key, call in calls.items():
            features[key] = batch_slice(computed, slice(start, start + len(call.x)), len(together.x))
            start += len(call.x)
        return features


def patched(call: ModelCall) -> bool:
    """Whether patches of other nodes are in a call. Some count blocks, and would take two calls in step for one."""
    return any(any(call.options.get(kind, {}).values()) for kind in (host.PATCHES, host.REPLACEMENTS))


def joined(calls: list[ModelCall]) -> ModelCall | None:
    """All calls as one batch, or None for calls that differ in more than their images and prompts."""
    first, *others = calls
    if not all(map(is_plain, calls)) or any(batch_key(call) != batch_key(first) for call in others):
        return None
    columns = zip(*(call.arguments for call in calls))
    return first._replace(arguments=[None if column[0] is None else torch.cat(column) for column in columns])


def is_plain(call: ModelCall) -> bool:
    """Whether a call has no kwargs, and only tensors or None as arguments."""
    return not call.kwargs and all(each is None or isinstance(each, torch.Tensor) for each in call.arguments)


def batch_key(call: ModelCall) -> list:
    """What is equal for plain calls that can share a batch: shapes of the arguments but for the batch, and patches."""
    shapes = [each if each is None else each.shape[1:] for each in call.arguments]
    return [*shapes, call.options.get(host.PATCHES), call.options.get(host.REPLACEMENTS)]
