"""What other nodes do to a model call, as the injection and the recording have to know it."""

from uuid import UUID

import torch

STEP_CACHES = ("easycache", "lazycache")  # keys of wrappers that leave model calls out


def sides_of(conds: dict[str, list[dict]]) -> dict[UUID, str]:
    """"cond" or "uncond" of each prompt in the conds of a guider, by its uuid. A guider may have more than a positive and a negative."""
    return {entry["uuid"]: "uncond" if "negative" in name else "cond" for name, entries in conds.items() for entry in entries}


def frames_of(options: dict, batch: int) -> list[int] | None:
    """Which latents of the batch a model call is for, where ComfyUI's context windows or AnimateDiff-Evolved's take some; None: all."""
    window = options.get("context_window")
    if window is not None and window.dim == 0:
        return window.get_tensor(torch.arange(batch)).tolist()
    return options.get("ad_params", {}).get("sub_idxs")


def hook_references(patcher) -> frozenset:
    """The LoRA hooks of prompts that are in the weights of `patcher` now."""
    return frozenset(hook.hook_ref for hook in patcher.current_hooks.hooks) if patcher.current_hooks else frozenset()
