"""Which memory has room for what, and how features are kept there: asked of ComfyUI's model_management."""

import weakref
from collections.abc import Callable
from functools import partial

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.storage import token_bytes
from . import logger
from .capture import RECOMPUTE, CaptureRequest
from .families import family_of
from .reuse import forget_oldest

RAM = torch.device("cpu")


def room(model: ModelPatcher) -> int:
    """Bytes that are free on MODEL's device once all of MODEL is there."""
    return comfy.model_management.get_free_memory(model.load_device) - (model.model_size() - model.loaded_size())


def fits_in_one_batch(model: ModelPatcher, shape: list[int]) -> bool:
    """Whether the model may be called on latents of `shape` (B, C, H, W) at once, with ComfyUI's margin."""
    return 1.5 * model.memory_required(shape) < room(model)


def feature_bytes(model: ModelPatcher, request: CaptureRequest, shape: list[int], steps: int) -> int:
    """What the inversion of latents of `shape` (B, C, H, W) keeps."""
    family, dtype = family_of(model), model.model.get_dtype_inference()
    each = sum(height * width * family.TENSORS * token_bytes(channels // family.TENSORS, request.dtype, dtype)
               for height, width, channels in family.token_shapes(model, request.blocks, shape[-2:]))
    return shape[0] * steps * each


def make_room(model: ModelPatcher, request: CaptureRequest, shape: list[int], steps: int) -> torch.device | None:
    """The device to keep the features of an inversion on. None, to recompute them, if "auto" finds no room and the
    family allows it.

    Logs their size; ValueError when they do not fit. RAM comes first: a GPU gets the next step from there while it
    computes, and what ComfyUI caches takes no GPU memory. On the GPU they must fit beside MODEL and the activations of
    a call with guidance, whose batch is twice that of the pictures. Forgets remembered inversions where RAM is short.
    """
    if not request.blocks or request.device == RECOMPUTE:
        return RAM
    size = feature_bytes(model, request, shape, steps)
    gpu = model.load_device
    calls = model.memory_required([2 * shape[0], *shape[1:]])
    if request.device == "gpu" and gpu != RAM:
        comfy.model_management.free_memory(size + calls + model.model_size() - model.loaded_size(), gpu)
    while size > comfy.model_management.get_free_memory(RAM) and forget_oldest():
        pass
    # Where MODEL runs on the CPU both keys are the same, and the second value stays.
    free = {gpu: room(model) - calls, RAM: comfy.model_management.get_free_memory(RAM)}
    candidates = dict.fromkeys({"gpu": [gpu], "cpu": [RAM]}.get(request.device, [RAM, gpu]))
    for device in candidates:
        if size <= free[device]:
            logger.info("The features of %d steps will take %.3g GB %s.", steps, size / 1e9, where(device))
            return device
    if request.device == "auto" and family_of(model).IN_LOCKSTEP:
        logger.info("The features of %d steps would take %.3g GB, more than is free. They are recomputed at every "
                    "sampling step.", steps, size / 1e9)
        return None
    have = " and ".join(f"{max(free[device], 0) / 1e9:.3g} GB {where(device)}" for device in candidates)
    raise ValueError(f"The features of {steps} steps would take {size / 1e9:.3g} GB, and only {have} are free. Set "
                     "feature_dtype to int8, or feature_device to "
                     f"{'auto or ' if request.device == 'gpu' else ''}recompute, or take fewer blocks or steps, a "
                     "smaller picture, or fewer pictures at once.")


def where(device: torch.device) -> str:
    return "of RAM" if device == RAM else "of GPU memory"


class Slabs:
    """RAM in pieces of SLAB bytes, each for many tensors. ComfyUI page-locks a slab if its budget allows.

    Copies from a GPU into locked RAM go on while it computes: read a tensor only once the GPU has been waited for. A
    slab's lock is given back when the slab is full and the last of its tensors dies.
    """
    SLAB, ALIGNMENT = 2 ** 26, 256

    def __init__(self):
        self.slab, self.free = None, torch.empty(0, dtype=torch.uint8)

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        size = -(-tensor.nbytes // self.ALIGNMENT) * self.ALIGNMENT
        if size > len(self.free):
            self.free = torch.empty(max(size, self.SLAB), dtype=torch.uint8)
            self.slab = Locked(self.free)
        memory, self.free = self.free[:tensor.nbytes], self.free[size:]
        kept = memory.view(tensor.dtype).view(tensor.shape).copy_(tensor, non_blocking=True)
        kept.locked = self.slab  # lives as long as the tensor
        return kept


class Locked:
    """Page-locks some RAM by ComfyUI's own budget, as long as it lives; ComfyUI may say no."""

    def __init__(self, memory: torch.Tensor):
        if comfy.model_management.pin_memory(memory):
            weakref.finalize(self, comfy.model_management.unpin_memory, memory).atexit = False


def keeper(source: torch.device, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """What copies a tensor from the device `source` to `device`, into memory of its own."""
    if source.type == "cuda" and device == RAM:
        return Slabs().keep
    return partial(torch.Tensor.to, device=device, copy=True)
