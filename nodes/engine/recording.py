"""How a MODEL records the self-attention of its inversion, or the calls from which that is computed again."""

import weakref
from collections.abc import Callable
from itertools import accumulate, product
from types import MappingProxyType
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ...styleid_core.blocks import Block
from ...styleid_core.features import Features, Kept
from ...styleid_core.storage import Slabs, map_tensors, move, store
from . import KEY
from .company import STEP_CACHES, hook_references
from .compilation import call
from .families import family_of
from .sources import ModelCall, Recomputed

CAPTURE = "styleid_capture"
GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function", "disable_cfg1_optimization")
OF_ONE_RUN = ("wrappers", "callbacks", "sigmas", "sample_sigmas")  # among transformer_options
INSIDE = {WrappersMP.DIFFUSION_MODEL: [WrappersMP.DIFFUSION_MODEL],  # kinds that a wrapper of this kind calls
          WrappersMP.APPLY_MODEL: [WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL]}
RECOMPUTE = "recompute"
DEVICES = ["auto", "gpu", "cpu", RECOMPUTE]
RAM = torch.device("cpu")


class CaptureRequest(NamedTuple):
    """What Capture Self-Attention asks of the inversions of a MODEL."""
    blocks: list[Block]
    dtype: str  # one of STORAGES
    device: str  # one of DEVICES


def request_capture(model: ModelPatcher, blocks: str, dtype: str = "auto", device: str = "auto") -> ModelPatcher:
    """A clone of MODEL that asks for `blocks` to be recorded when it is inverted, as CaptureRequest says.

    Sampling with it changes nothing. ValueError for a model of no family, or a text that names none of its self-attentions.
    """
    m = model.clone()
    m.model_options["transformer_options"][CAPTURE] = CaptureRequest(family_of(model).select(model, blocks), dtype, device)
    return m


def requested_capture(model: ModelPatcher) -> CaptureRequest:
    """What `request_capture` asked for, which may be no blocks."""
    return model.model_options["transformer_options"].get(CAPTURE, CaptureRequest([], "auto", "auto"))


class Recorder:
    """Owned by one inversion of `latents`, all in one batch: what it keeps of every model call, features on `device` or the call itself.

    Each of them gets memory of its own, so that each can be let go alone.
    """
    def __init__(self, model: ModelPatcher, request: CaptureRequest, latents: list[torch.Tensor], device: torch.device, rounds: list[int]):
        self.patcher, self.model, self.family = weakref.ref(model), weakref.ref(model.model), family_of(model)
        self.request, self.latents = request, latents
        ends = list(accumulate(map(len, latents)))
        self.parts = [slice(end - len(latent), end) for end, latent in zip(ends, latents)]
        self.shape = (ends[-1], *latents[0].shape[-2:])
        self.rounds, self.left = rounds, 0  # how often each step asks again, and how often the one at hand still will
        self.sigmas: list[float] = []
        self.sources = [Recomputed([]) if request.device == RECOMPUTE else Kept([]) for _ in latents]
        self.keep = [keeper(model.load_device, device) for _ in latents]
        self.place = 0  # of the pictures, see `families`
        self.call = call  # or compiled
        self.seen: dict[Block, torch.Tensor] = {}  # in the model call at hand

    def model_call(self, executor, x, *arguments, **kwargs):
        *arguments, transformer_options = arguments
        sigma = float(transformer_options["sigmas"][0])
        again = self.left > 0 and sigma == self.sigmas[-1]
        if (len(x), *x.shape[-2:]) != self.shape or sigma in self.sigmas and not again:
            raise ValueError("An inversion needs the whole picture in one model call for a step, and another node makes several: for "
                             "tiles, parts of the frames, or to compare them. Remove it from the model that is inverted.")
        if again:
            self.left -= 1
        else:
            self.left = self.rounds[min(len(self.sigmas), len(self.rounds) - 1)]
            self.sigmas.append(sigma)
        arguments = [x, *arguments]
        self.place = self.family.place(self.patcher(), arguments, kwargs)
        transformer_options = self.family.call_options(self.patcher(), transformer_options, kwargs)
        if self.left:
            return self.call(executor, *arguments, transformer_options, **kwargs)
        if self.request.device == RECOMPUTE:
            self.keep_call([*arguments, kwargs], transformer_options)
        output = self.call(executor, *arguments, transformer_options, **kwargs)
        if self.request.device != RECOMPUTE:
            self.keep_features()
        return output

    def keep_call(self, arguments: list, transformer_options: dict):
        wrappers = transformer_options["wrappers"]
        if {key for kind in INSIDE[self.family.WRAPPED] for key in wrappers.get(kind, ())} != {CAPTURE}:
            raise ValueError("feature_device recompute cannot repeat what another node adds to the model calls of the inversion. "
                             "Set feature_device to auto, or remove that node from the model that is inverted.")
        options = {name: value for name, value in transformer_options.items() if name not in OF_ONE_RUN}
        for part, source in zip(self.parts, self.sources):
            kept = map_tensors(lambda tensor, part=part: move(tensor[part], RAM), arguments)
            source.calls.append(ModelCall(*kept, MappingProxyType(options), self.model, hook_references(self.patcher())))

    def keep_features(self):
        if self.seen.keys() != set(self.request.blocks):
            raise ValueError("The inversion did not reach all of the chosen blocks: another node leaves parts of the model out, or this "
                             "ComfyUI does not tell where they are. Remove it from the model that is inverted, or update ComfyUI.")
        # What is compiled into CUDA graphs, the next call would write its own n into.
        seen = self.seen if self.call is call else {block: n.clone() for block, n in self.seen.items()}
        for part, source, keep in zip(self.parts, self.sources, self.keep):
            source.steps.append([store(seen[block][part], self.request.dtype, keep) for block in self.request.blocks])
        self.seen.clear()

    def features(self, steps: int) -> list[Features]:
        """Of each of the latents. ValueError unless the model was called at each of so many steps."""
        blocks = self.request.blocks
        if blocks and len(self.sigmas) != steps:
            raise ValueError(f"The inversion called the model at {len(self.sigmas)} of {steps} steps: another node left the others out, as "
                             "caches of model calls do. Remove it from the model that is inverted.")
        return [Features(self.sigmas, blocks, source, latent, place=self.place) for source, latent in zip(self.sources, self.latents)]


def keeper(source: torch.device, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """What puts a tensor from the device `source` where it is kept, in memory of its own."""
    if device == RAM:
        return Slabs().keep if source.type == "cuda" else torch.clone

    def keep(tensor):
        kept = move(tensor, device)
        return kept.clone() if kept.untyped_storage().nbytes() > kept.nbytes else kept

    return keep


def bare(model: ModelPatcher) -> ModelPatcher:
    """A clone of MODEL that injects nothing and has no guidance and no cache of model calls, even if MODEL does: an inversion follows the
    bare prediction of every step.
    """
    m = model.clone()
    # ComfyUI takes the parent for the loaded model when this clone dies. After an error MODEL, a clone itself, would die with it.
    m.parent = model.parent or model
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    for kind, key in product(m.wrappers, STEP_CACHES):
        m.remove_wrappers_with_key(kind, key)
    for name in GUIDANCE:
        m.model_options.pop(name, None)
    return m


def record(model: ModelPatcher, latents: list[torch.Tensor], device: torch.device | None, rounds: list[int]) -> tuple:
    """(`bare` clone of MODEL, its Recorder) for one inversion of `latents` (B, C, H, W), which does what `request_capture` asked for, or
    keeps no features where there is no `device` for them. Of a step that asks the model again, as often as its `rounds` say, the last call
    is kept.
    """
    m = bare(model)
    request = requested_capture(model)
    if device is None:
        request, device = request._replace(device=RECOMPUTE), RAM
    recorder = Recorder(m, request, latents, device, rounds)
    if request.blocks:
        m.add_wrapper_with_key(recorder.family.WRAPPED, CAPTURE, recorder.model_call)
        if request.device != RECOMPUTE:
            recorder.family.record(model, m.model_options["transformer_options"], request.blocks, recorder.seen, recorder.shape)
    return m, recorder
