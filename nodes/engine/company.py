"""What other nodes do to a model call, as the injection and the recording have to know it."""

from uuid import UUID

import torch
from comfy.model_patcher import ModelPatcher

STEP_CACHES = ("easycache", "lazycache")  # keys of wrappers that leave model calls out
MULTIGPU = "multigpu"  # key of the clones by which MultiGPU CFG Split shares out model calls


def sides_of(conds: dict[str, list[dict]]) -> dict[UUID, str]:
    """"cond" or "uncond" of each prompt in the conds of a guider, by its uuid. A guider may have more than a positive and a negative."""
    return {entry["uuid"]: "uncond" if "negative" in name else "cond" for name, entries in conds.items() for entry in entries}


def frames_of(options: dict, batch: int) -> list[int] | None:
    """Which latents of the batch a model call is for, where ComfyUI's context windows or AnimateDiff-Evolved's take some; None: all."""
    window = options.get("context_window")
    if window is not None and window.dim == 0:
        return window.get_tensor(torch.arange(batch)).tolist()
    return options.get("ad_params", {}).get("sub_idxs")


def patcher_of(model: ModelPatcher, options: dict) -> ModelPatcher:
    """MODEL, or the clone of it on the GPU that a model call with these transformer_options is made on."""
    device = options.get("multigpu_thread_device")
    return next((each for each in model.get_additional_models_with_key(MULTIGPU) if each.load_device == device), model)


def hook_references(patcher) -> frozenset:
    """The LoRA hooks of prompts that are in the weights of `patcher` now."""
    return frozenset(hook.hook_ref for hook in patcher.current_hooks.hooks) if patcher.current_hooks else frozenset()
