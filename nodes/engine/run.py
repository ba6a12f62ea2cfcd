"""What the model calls of one injected sampling share."""

import threading
from functools import partial
from uuid import UUID

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.features import Features, Reader
from ...styleid_core.storage import map_tensors
from ...styleid_core.style import INJECT_INTO, Style
from . import checks
from .call import Call
from .company import frames_of, patcher_of
from .compilation import call
from .families import family_of
from .lockstep import Companion
from .memory import fits_in_one_batch
from .regions import Regions
from .sources import Recomputed, call_at, patched, replay, replay_all
from .tally import Tally


class Run:
    """Of one sampling of MODEL into which `styles` are injected. Two calls may be made at a time, each on a GPU of its own."""

    def __init__(self, model: ModelPatcher, styles: list[Style], batch: int, sides: dict[UUID, str]):
        self.model, self.family, self.styles = model, family_of(model), styles
        self.batch, self.sides = batch, sides  # of the latent, and of the prompts as `sides_of`
        self.ranges = [sigma_range(model, style.start, style.end) for style in styles]
        captured = {block for style in styles for block in style.content.blocks}
        self.blocks = [block for block in self.family.blocks(model) if block in captured]
        self.regions = Regions(model, self.family, self.blocks)
        self.tally = Tally()
        self.compiled = False
        self.execute = call  # what makes model calls: as they are, or compiled
        self.locks: dict[torch.device, threading.Lock] = {}  # of what a device has read
        self.readers: dict[tuple, Reader] = {}  # of kept features, by their source and the device that they are read to
        self.read: dict[torch.device, tuple] = {}  # the last sigma of each device, and {id of a source: its features}
        self.conditions: dict[torch.device, list[torch.Tensor]] = {}

    def model_call(self, executor, x, *arguments, **kwargs):
        """The wrapper of each call of the model."""
        *arguments, options = arguments
        sigma = self.sigma_of(options)
        indices, uuids = options["cond_or_uncond"], options["uuids"]
        active = [self.active(sigma, index, uuid) for index, uuid in zip(indices, uuids)]
        if all(same(styles, active[0]) for styles in active):
            return self.uniform_call(executor, active[0], sigma, [x, *arguments], options, kwargs)
        # Parts of the batch attend to other styles, or to their own keys, which may be of another number: one after the other.
        outputs = []
        for i, styles in enumerate(active):
            part, part_kwargs = chunk_of([[x, *arguments], kwargs], i, len(active), len(x))
            part_options = options | {"cond_or_uncond": [indices[i]], "uuids": [uuids[i]]}
            outputs.append(self.uniform_call(executor, styles, sigma, part, part_options, part_kwargs))
        return torch.cat(outputs)

    def active(self, sigma: float, index: int, uuid: UUID) -> list[Style]:
        """The styles that are injected into a call: for the prompt `uuid`, or, where another node made that up, by its index in
        cond_or_uncond.
        """
        side = self.sides.get(uuid, "uncond" if index else "cond")
        return [style for style, (highest, lowest) in zip(self.styles, self.ranges)
                if lowest <= sigma <= highest and side in INJECT_INTO[style.inject_into]]

    def uniform_call(self, executor, styles: list[Style], sigma: float, arguments: list, options: dict, kwargs: dict):
        """With the same styles for all of the batch."""
        if not styles:
            return self.execute(executor, *arguments, options, **kwargs)
        x, frames = arguments[0], frames_of(options, self.batch)
        self.check(x, styles, frames, options)
        features = self.features_at(sigma, styles, executor, x.device, options)
        made = Call(self, styles, sigma, x.device, self.model.model.get_dtype_inference(), len(x), frames,
                    self.family.position(self.model, arguments, kwargs), features, {})
        options = self.family.for_call(self.model, options, kwargs, made)
        try:
            output = self.execute(executor, *arguments, options, **kwargs)
        finally:
            for each in features.values():
                if isinstance(each, Companion):
                    each.close()
        self.tally.add(sigma, made.expected(), set(made.reached), self.family.above(options))
        return output

    def check(self, x: torch.Tensor, styles: list[Style], frames: list[int] | None, options: dict):
        checks.whole_picture(tuple(x.shape[-2:]), styles[0].content.size)
        batches = [len(each) for style in styles for each in (style.content.latent, style.features.latent, style.mask) if each is not None]
        if max(batches) > 1:
            checks.whole_batch(len(x), len(options["cond_or_uncond"]), self.batch if frames is None else len(frames))

    def features_at(self, sigma: float, styles: list[Style], executor, device: torch.device, options: dict) -> dict[int, dict]:
        """{id of a source: its features} of all that the styles need. Those that are recomputed block by block are for one call."""
        wanted = {id(each.source): each for style in styles for each in (style.content, style.features)}
        with self.locks.setdefault(device, threading.Lock()):
            last, known = self.read.get(device, (None, {}))
            if sigma != last:
                known = {}
                self.read[device] = sigma, known  # frees one step before the next takes memory
            missing = {key: each for key, each in wanted.items() if key not in known}
            kept = {key: each for key, each in missing.items() if not isinstance(each.source, Recomputed)}
            known |= {key: self.reader(each, device).read(sigma) for key, each in kept.items()}
            patcher = patcher_of(self.model, options)
            calls = {key: call_at(each, sigma, patcher) for key, each in missing.items() if key not in kept}
            again = partial(replay, executor, model=self.model, blocks=self.blocks, device=device, options=options)
            if self.family.IN_LOCKSTEP and not any(map(patched, calls.values())):
                return known | {key: Companion(partial(again, each), device) for key, each in calls.items()}
            known |= replay_all(calls, again, partial(fits_in_one_batch, self.model))
            return dict(known)

    def reader(self, features: Features, device: torch.device) -> Reader:
        key = id(features.source), device
        if key not in self.readers:
            self.readers[key] = Reader(features, device)
        return self.readers[key]

    def sigma_of(self, options: dict) -> float:
        """Of a model call, with what the last one left to be seen: the host waits for its device only once."""
        sigma = options["sigmas"][0]
        conditions = self.conditions.pop(sigma.device, [])
        if conditions:
            sigma, *held = torch.stack([sigma, *(each.to(sigma) for each in conditions)]).tolist()
            checks.even_masks(all(held))
        sigma = float(sigma)
        self.tally.check(before=sigma)
        return sigma

    def holds(self, condition: torch.Tensor):
        """Ask, later, for a truth that the device is still working out."""
        self.conditions.setdefault(condition.device, []).append(condition)

    def finish(self):
        """ValueError for what the last calls left to be seen."""
        checks.even_masks(all(bool(each) for conditions in self.conditions.values() for each in conditions))
        self.tally.check()


def same(a: list, b: list) -> bool:
    """Whether two lists hold the same objects."""
    return [id(item) for item in a] == [id(item) for item in b]


def chunk_of(value, index: int, chunks: int, batch: int):
    """One of the `chunks` in a batch of whatever a model is called with; what has no such batch stays whole."""
    def part(tensor):
        return tensor.chunk(chunks)[index] if tensor.ndim and len(tensor) == batch else tensor

    return map_tensors(part, value)


def sigma_range(model: ModelPatcher, start: float, end: float) -> tuple[float, float]:
    """(highest, lowest) sigma at which to inject, of a part of the sampling as in `Style`."""
    sampling = model.get_model_object("model_sampling")
    return float(sampling.percent_to_sigma(start)), float(sampling.percent_to_sigma(end))
