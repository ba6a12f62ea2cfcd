"""Records an inversion: the features of its self-attention, or the model calls to compute them from later."""

import weakref
from collections.abc import Callable
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, Kept, batch_slice
from ...styleid_core.storage import map_tensors, store
from . import KEY, host
from .capture import CAPTURE, RECOMPUTE, CaptureRequest, requested_capture
from .compilation import execute
from .families import family_of
from .memory import RAM, keeper
from .sources import ModelCall, Recomputed

INSIDE = {WrappersMP.DIFFUSION_MODEL: [WrappersMP.DIFFUSION_MODEL],  # {kind of wrapper: it and the kinds inside it}
          WrappersMP.APPLY_MODEL: [WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL]}


class Picture(NamedTuple):
    """One of the latents (B, C, H, W) that are inverted in a batch.

    slice   its part of the batch
    source  what is kept of it
    keep    copies a tensor into memory of its own, so that each latent's can be freed alone
    """
    latent: torch.Tensor
    slice: slice
    source: Kept | Recomputed
    keep: Callable[[torch.Tensor], torch.Tensor]


class Recorder:
    """Owned by one inversion of `latents` as one batch. Keeps features on `device`, or the call, of each step.

    Step i calls the model once and `rounds[i]` times again, and its last call is kept.
    """

    def __init__(self, model: ModelPatcher, request: CaptureRequest, latents: list[torch.Tensor], device: torch.device,
                 rounds: list[int]):
        self.patcher, self.model, self.family = weakref.ref(model), weakref.ref(model.model), family_of(model)
        self.request = request
        self.batch, start = sum(map(len, latents)), 0
        self.pictures: list[Picture] = []
        for latent in latents:
            source = Recomputed([]) if request.device == RECOMPUTE else Kept([])
            part = slice(start, start + len(latent))
            self.pictures.append(Picture(latent, part, source, keeper(model.load_device, device)))
            start = part.stop
        self.shape = (self.batch, *latents[0].shape[-2:])
        self.rounds, self.left = rounds, 0  # `left`: how often the step at hand will still call the model
        self.sigmas: list[float] = []
        self.kept_steps = 0
        self.position = 0  # of the pictures
        self.execute = execute  # or compiled
        self.seen: dict[Block, torch.Tensor] = {}  # in the model call at hand

    def model_call(self, executor, x, *arguments, **kwargs):
        *arguments, transformer_options = arguments
        sigma = float(transformer_options[host.SIGMAS][0])
        again = self.left > 0 and sigma == self.sigmas[-1]
        if (len(x), *x.shape[-2:]) != self.shape or (sigma in self.sigmas and not again):
            raise ValueError("An inversion needs the whole picture in one model call for a step, and another node "
                             "makes several: for tiles, parts of the frames, or to compare them. Remove it from the "
                             "model that is inverted.")
        if again:
            self.left -= 1
        else:
            self.left = self.rounds[min(len(self.sigmas), len(self.rounds) - 1)]
            self.sigmas.append(sigma)
        arguments = [x, *arguments]
        self.position = self.family.position(self.patcher(), arguments, kwargs)
        if not self.left and self.request.device == RECOMPUTE:
            self.keep_call(arguments, kwargs, transformer_options)
        options = self.family.for_call(self.patcher(), transformer_options, kwargs)
        output = self.execute(executor, *arguments, options, **kwargs)
        if not self.left and self.request.device != RECOMPUTE:
            self.keep_features(self.family.above(transformer_options))
        self.kept_steps += not self.left
        return output

    def keep_call(self, arguments: list, kwargs: dict, transformer_options: dict):
        wrappers = transformer_options[host.WRAPPERS]
        if {key for kind in INSIDE[self.family.WRAPPED] for key in wrappers.get(kind, ())} != {CAPTURE}:
            raise ValueError("feature_device recompute cannot repeat what another node adds to the model calls of the "
                             "inversion. Set feature_device to auto, or remove that node from the model that is "
                             "inverted.")
        options = {name: value for name, value in transformer_options.items() if name not in host.OF_ONE_RUN}
        hooks = host.hook_references(self.patcher())
        for each in self.pictures:
            kept, kept_kwargs = map_tensors(each.keep, batch_slice([arguments, kwargs], each.slice, self.batch))
            each.source.calls.append(ModelCall(kept, kept_kwargs, MappingProxyType(options), self.model, hooks))

    def keep_features(self, above: str | None):
        if self.seen.keys() != set(self.request.blocks):
            why = f"{above} stands in the place of their attention"
            if above is None:
                why = "another node leaves parts of the model out, or this ComfyUI does not tell where they are"
            raise ValueError(f"The inversion did not reach all of the chosen blocks: {why}. Remove it from the model "
                             "that is inverted, or update ComfyUI.")
        # The next call of compiled CUDA graphs writes into the same memory.
        seen = self.seen if self.execute is execute else map_tensors(torch.clone, self.seen)
        for each in self.pictures:
            own = seen if len(self.pictures) == 1 else batch_slice(seen, each.slice, self.batch)
            kept = [store(own[block], self.request.dtype, each.keep) for block in self.request.blocks]
            each.source.steps.append(kept)
        self.seen.clear()

    def features(self, steps: int) -> list[Features]:
        """Those of each latent. ValueError unless so many steps were kept."""
        blocks = self.request.blocks
        if blocks and not self.kept_steps == len(self.sigmas) == steps:
            raise ValueError(f"The inversion called the model at {self.kept_steps} of {steps} steps: another node left "
                             "the others out, as caches of model calls do. Remove it from the model that is inverted.")
        return [Features(self.sigmas, blocks, each.source, each.latent, position=self.position)
                for each in self.pictures]


def bare(model: ModelPatcher) -> ModelPatcher:
    """A clone of MODEL without its injection, its guidance and its caches of model calls, as an inversion follows the
    bare prediction of every step.
    """
    m = model.clone()
    # When this clone dies, ComfyUI keeps its parent loaded. MODEL may be a clone too, and die with it after an error.
    m.parent = model.parent or model
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    m.remove_additional_models(host.MULTIGPU)  # one call a step cannot be shared out
    for kind, key in product(m.wrappers, host.STEP_CACHES):
        m.remove_wrappers_with_key(kind, key)
    for name in host.GUIDANCE:
        m.model_options.pop(name, None)
    return m


def record(model: ModelPatcher, latents: list[torch.Tensor], device: torch.device | None, rounds: list[int]) -> tuple:
    """(`bare` clone of MODEL, its Recorder) for one inversion of `latents` (B, C, H, W) with `rounds` as in `Recorder`.

    It does what `request_capture` asked for. Without a `device` for features it keeps the calls.
    """
    m = bare(model)
    request = requested_capture(model)
    if device is None:
        request, device = request._replace(device=RECOMPUTE), RAM
    recorder = Recorder(m, request, latents, device, rounds)
    if request.blocks:
        m.add_wrapper_with_key(recorder.family.WRAPPED, CAPTURE, recorder.model_call)
        if request.device != RECOMPUTE:
            options = m.model_options[host.TRANSFORMER_OPTIONS]
            recorder.family.record(model, options, request.blocks, recorder.seen, recorder.shape)
    return m, recorder
