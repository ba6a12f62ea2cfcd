"""How a MODEL records the self-attention of its inversion, or the calls from which that is computed again."""

import logging
import weakref
from itertools import product
from types import MappingProxyType
from typing import NamedTuple

import torch
from comfy.patcher_extension import WrappersMP

from ..styleid_core.blocks import Block
from ..styleid_core.features import Features
from ..styleid_core.storage import map_tensors, move, store
from .company import STEP_CACHES, hook_references
from .compilation import call
from .unet import select_blocks

KEY = "styleid"
CAPTURE = "styleid_capture"
GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function", "disable_cfg1_optimization")
OF_ONE_RUN = ("wrappers", "callbacks", "sigmas", "sample_sigmas")  # among transformer_options
PLACES = ["auto", "gpu", "cpu", "recompute"]
RAM = torch.device("cpu")

logger = logging.getLogger(KEY)


class CaptureRequest(NamedTuple):
    """What CaptureSelfAttention asks of the inversions of a MODEL."""
    blocks: list[Block]
    storage: str  # one of STORAGES
    place: str  # one of PLACES


class ModelCall(NamedTuple):
    """A call of the UNet in an inversion, to be made again; tensors are in RAM."""
    x: torch.Tensor
    timesteps: torch.Tensor
    context: torch.Tensor
    y: torch.Tensor | None
    control: dict | None
    kwargs: dict
    options: MappingProxyType  # the transformer_options, less those OF_ONE_RUN
    model: weakref.ref  # whose UNet was called
    hooks: frozenset  # as `hook_references`


def block_address(extra_options: dict) -> Block:
    return (*extra_options["block"], extra_options["block_index"])


def put_first(patch, transformer_options: dict):
    """Run `patch` before every other attn1_patch, so that it meets the LayerNorm output and not what others make of it."""
    patches = transformer_options["patches"] = transformer_options.get("patches", {}).copy()
    patches["attn1_patch"] = [patch, *patches.get("attn1_patch", [])]


def request_capture(model, layers: str, storage: str = "auto", place: str = "auto"):
    """A clone of MODEL that asks for `layers` to be recorded when it is inverted, as CaptureRequest says.

    Sampling with it changes nothing. Errors as `select_blocks`.
    """
    m = model.clone()
    m.model_options["transformer_options"][CAPTURE] = CaptureRequest(select_blocks(model, layers), storage, place)
    return m


def requested_capture(model) -> CaptureRequest:
    """What `request_capture` asked for, which may be no blocks."""
    return model.model_options["transformer_options"].get(CAPTURE, CaptureRequest([], "auto", "auto"))


def capturing(blocks: list[Block], seen: dict[Block, torch.Tensor]):
    """An attn1_patch that changes nothing and puts the input of each of `blocks` into `seen`."""
    def attn1_patch(n, context, value, extra_options):
        block = block_address(extra_options)
        if block in blocks:
            seen[block] = n
        return n, context, value

    return attn1_patch


class Recorder:
    """Owned by one inversion: what it keeps of every model call, features on `device` or the call itself."""

    def __init__(self, model, request: CaptureRequest, latent: torch.Tensor, device: torch.device, reserved: torch.Tensor | None):
        self.patcher, self.model = weakref.ref(model), weakref.ref(model.model)
        self.request, self.latent, self.device, self.reserved = request, latent, device, reserved
        self.sigmas: list[float] = []
        self.steps: list = []
        self.call = call  # or compiled
        self.seen: dict[Block, torch.Tensor] = {}  # in the model call at hand

    def model_call(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        self.reserved = None  # MODEL is loaded by now, and left room for the features
        sigma = float(transformer_options["sigmas"][0])
        if (len(x), *x.shape[-2:]) != (len(self.latent), *self.latent.shape[-2:]) or sigma in self.sigmas:
            raise ValueError("An inversion needs the whole picture in one model call for a step, and another node makes several: for "
                             "tiles, parts of the frames, or to compare them. Remove it from the model that is inverted.")
        self.sigmas.append(sigma)
        if self.request.place == "recompute":
            if transformer_options["wrappers"][WrappersMP.DIFFUSION_MODEL].keys() != {CAPTURE}:
                raise ValueError("place recompute cannot repeat what another node adds to the model calls of the inversion. "
                                 "Set place to auto, or remove that node from the model that is inverted.")
            arguments = map_tensors(lambda tensor: move(tensor, RAM), [x, timesteps, context, y, control, kwargs])
            options = {name: value for name, value in transformer_options.items() if name not in OF_ONE_RUN}
            self.steps.append(ModelCall(*arguments, MappingProxyType(options), self.model, hook_references(self.patcher())))
        output = self.call(executor, x, timesteps, context, y, control, transformer_options, **kwargs)
        if self.request.place != "recompute":
            if self.seen.keys() != set(self.request.blocks):
                raise ValueError("The inversion did not reach all of the chosen blocks: another node leaves parts of the UNet out. "
                                 "Remove it from the model that is inverted.")
            # What is compiled into CUDA graphs, the next call would write its own n into.
            seen = self.seen if self.call is call else {block: n.clone() for block, n in self.seen.items()}
            self.steps.append([store(seen[block], self.request.storage, self.device) for block in self.request.blocks])
            self.seen.clear()
        return output

    def last_attn1_patch(self, n, context, value, extra_options):
        if block_address(extra_options) in self.request.blocks and not len(n) == len(context) == len(self.latent):
            raise ValueError("Another node cuts self-attention into tiles (HyperTile, MSW-MSA), which StyleID cannot inject into. "
                             "Remove it from the model that is inverted, and from the one that is sampled.")
        return n, context, value

    def features(self, steps: int) -> Features:
        """ValueError unless the model was called at each of so many steps."""
        blocks = self.request.blocks
        if blocks and len(self.sigmas) != steps:
            raise ValueError(f"The inversion called the model at {len(self.sigmas)} of {steps} steps: another node left the others out, as "
                             "caches of model calls do. Remove it from the model that is inverted.")
        return Features(self.sigmas, blocks, self.steps, self.latent)


def record(model, latent: torch.Tensor, device: torch.device, reserved: torch.Tensor | None = None) -> tuple:
    """(clone of MODEL, its Recorder) for one inversion of `latent` (B, C, H, W), which does what `request_capture` asked for.

    The clone injects nothing and has no guidance and no cache of model calls, even if MODEL does: an inversion follows the bare
    prediction of every step. `reserved` is let go at the first model call.
    """
    m = model.clone()
    # ComfyUI takes the parent for the loaded model when this clone dies. After an error MODEL, a clone itself, would die with it.
    m.parent = model.parent or model
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    for kind, key in product(m.wrappers, STEP_CACHES):
        m.remove_wrappers_with_key(kind, key)
    for name in GUIDANCE:
        m.model_options.pop(name, None)
    request = requested_capture(model)
    recorder = Recorder(m, request, latent, device, reserved)
    if request.blocks:
        m.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, CAPTURE, recorder.model_call)
        if request.place != "recompute":
            put_first(capturing(request.blocks, recorder.seen), m.model_options["transformer_options"])
            m.set_model_attn1_patch(recorder.last_attn1_patch)
    return m, recorder


def replay(executor, call: ModelCall, blocks: list[Block], device: torch.device, options: dict) -> dict[Block, torch.Tensor]:
    """{block: n (batch, tokens, channels)} of making `call` of the UNet again inside another, whose `executor` and `options` are given."""
    features = {}
    options = {name: options[name] for name in ("sigmas", "sample_sigmas") if name in options} | call.options
    put_first(capturing(blocks, features), options)
    *arguments, kwargs = map_tensors(lambda tensor: move(tensor, device), list(call[:6]))
    # Past the other wrappers, which watch the sampling and not this.
    executor.original(*arguments, options, **kwargs)
    return features


def joined(a: ModelCall, b: ModelCall) -> ModelCall | None:
    """Both calls as one batch, or None for calls that differ in more than their images and prompts."""
    tensors = list(zip(a[:4], b[:4]))
    alike = all((t is None) == (u is None) and (t is None or t.shape[1:] == u.shape[1:]) for t, u in tensors)
    same_patches = all(a.options.get(name) == b.options.get(name) for name in ("patches", "patches_replace"))
    if not (alike and same_patches) or any(call.control or call.kwargs for call in (a, b)):
        return None
    return ModelCall(*(None if t is None else torch.cat((t, u)) for t, u in tensors), None, {}, *a[6:])


def replay_all(executor, calls: list[ModelCall], blocks: list[Block], device: torch.device, options: dict, fits) -> list[dict]:
    """`replay` of one or two calls; of two in one batch where they can be and `fits(shape of x)`."""
    together = joined(*calls) if len(calls) == 2 else None
    if together is None or not fits(list(together.x.shape)):
        return [replay(executor, call, blocks, device, options) for call in calls]
    first = len(calls[0].x)
    features = replay(executor, together, blocks, device, options)
    return [{block: n[:first] for block, n in features.items()}, {block: n[first:] for block, n in features.items()}]
