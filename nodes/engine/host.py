"""What the pack leans on in ComfyUI and torch beyond what they promise: to be read first when it is brought to a new
ComfyUI.

Each name is in ComfyUI 0.16.3, 0.30.0 and 0.33, and SINCE lists those that came later.
`tests/in_comfyui/test_host.py` looks for them in the ComfyUI that it runs on, and `tests/dev/test_registry.py` at all
that is imported and called. The classes of networks are the rows of `families.layouts.LAYOUTS`.
"""

import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from uuid import UUID

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher

# Keys of MODEL's model_options.
TRANSFORMER_OPTIONS = "transformer_options"
MASK_FUNCTION = "denoise_mask_function"  # of Differential Diffusion
COMPILE_KWARGS = "torch_compile_kwargs"  # how TorchCompileModel compiles
POST_CFG = "sampler_post_cfg_function"
GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", POST_CFG, "disable_cfg1_optimization")

# Keys of the transformer_options that each model call has of its own.
SIGMAS, SAMPLE_SIGMAS = "sigmas", "sample_sigmas"
UUIDS, COND_OR_UNCOND = "uuids", "cond_or_uncond"  # of the prompts, in the order of the batch
WRAPPERS, CALLBACKS = "wrappers", "callbacks"
PATCHES, REPLACEMENTS = "patches", "patches_replace"
ATTENTION_INPUT, ATTENTION, TRANSFORMER = "attn1_patch", "attn1", "dit"  # kinds of patches and replacements
OVERRIDE = "optimized_attention_override"
REFERENCE_TOKENS = "reference_image_num_tokens"
DEVICE = "multigpu_thread_device"
OF_ONE_RUN = (WRAPPERS, CALLBACKS, SIGMAS, SAMPLE_SIGMAS)  # not for a call that is made again in another run

# Keys by which an attention tells where it is and how it works. In a UNet, `block_index` counts within a block; in a
# transformer it counts the blocks.
BLOCK, BLOCK_TYPE, BLOCK_INDEX = "block", "block_type", "block_index"
HEADS, PRECISION = "n_heads", "attn_precision"

# Keys of wrappers, and of clones of a model.
COMPILE = "torch.compile"  # of TorchCompileModel, and of nodes of other packs with its help
STEP_CACHES = ("easycache", "lazycache")  # leave model calls out
MULTIGPU = "multigpu"  # share out model calls

# Keys of what a model is called with: the latents of its references, and their prompts.
CALL_REFERENCES, CALL_REFERENCE_PROMPTS = "ref_latents", "ref_contexts"

# Keys of the entries of a CONDITIONING, and of those that hold pictures.
MASK, DEFAULT = "mask", "default"
AREA, MASK_AS_AREA = "area", "set_area_to_bounds"
HINTS = ("control", "control_apply_to_uncond", "gligen")
MASKED_PICTURE, PICTURE_MASK = "concat_latent_image", "concat_mask"  # of inpainting models
REFERENCES, SHOWN = "reference_latents", "unclip_conditioning"  # as latents, and as CLIP Vision sees them
OF_REFERENCES = (REFERENCES, SHOWN, "reference_latents_method", "reference_latents_text_embeds")
LLAMA = "conditioning_llama3"  # a prompt that has four dimensions, like a picture

SINCE = {REFERENCE_TOKENS: "0.18.2", DEVICE: "0.24.1", MULTIGPU: "0.24.1", "SingleStreamDiT": "0.27.0"}

# Paths from picture to noise. Not every ComfyUI has all.
SCALED_FLOW = getattr(comfy.model_sampling, "COSMOS_RFLOW", ())


def sides_of(conds: dict[str, list[dict]]) -> dict[UUID, str]:
    """"cond" or "uncond" of each prompt in the conds of a guider, by its uuid. A guider may have more than a positive
    and a negative.
    """
    return {entry["uuid"]: "uncond" if "negative" in name else "cond"
            for name, entries in conds.items() for entry in entries}


def has_area(entry: dict) -> bool:
    """Whether an entry of a conditioning is evaluated for a part of the picture."""
    return AREA in entry or bool(entry.get(MASK_AS_AREA))


def covers(entry: dict, sigma: float, percent_to_sigma: Callable[[float], float]) -> bool:
    """Whether an entry of a conditioning is evaluated at `sigma`: its timestep range, and a scheduled encoder's."""
    start = max(entry.get("start_percent", 0.0), entry.get("clip_start_percent", 0.0))
    end = min(entry.get("end_percent", 1.0), entry.get("clip_end_percent", 1.0))
    return percent_to_sigma(end) <= sigma <= percent_to_sigma(start)


def frames_of(options: dict, batch: int) -> list[int] | None:
    """Which latents of the batch a model call is for, where ComfyUI's context windows or AnimateDiff-Evolved's take
    some; None: all.
    """
    window = options.get("context_window")
    if window is not None and window.dim == 0:
        return window.get_tensor(torch.arange(batch)).tolist()
    return options.get("ad_params", {}).get("sub_idxs")


def patcher_of(model: ModelPatcher, options: dict) -> ModelPatcher:
    """MODEL, or the clone of it on the GPU that a model call with these transformer_options is made on."""
    clones = model.get_additional_models_with_key(MULTIGPU)
    return next((each for each in clones if each.load_device == options.get(DEVICE)), model)


def hook_references(patcher: ModelPatcher) -> frozenset:
    """The LoRA hooks of prompts that are in the weights of `patcher` now."""
    return frozenset(hook.hook_ref for hook in patcher.current_hooks.hooks) if patcher.current_hooks else frozenset()


def compiler_of(backend: str | Callable, mode: str | None, options: Iterable[tuple], dynamic: bool | None) -> Callable:
    """The function that torch.compile would call with a graph and its inputs, for these of its arguments."""
    kwargs = {}
    if backend == "inductor":
        modes = torch._inductor.list_mode_options(mode, dynamic) if mode else {}
        kwargs["config_patches"] = modes | dict(options)
    elif options:
        kwargs["options"] = dict(options)
    compiler = torch._dynamo.lookup_backend(backend)
    return lambda graph, inputs: compiler(graph, inputs, **kwargs)


def uncompiled() -> AbstractContextManager:
    """Switches torch.compile off. Its graphs might miss the patches of this run, or keep those of the last.

    torch before 2.6 has no such switch; there a run that reached nothing still ends in an error.
    """
    stances = "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance")
    return torch.compiler.set_stance("force_eager") if stances else nullcontext()
