"""All that this pack knows of ComfyUI's model patching: patches, wrappers, transformer_options."""

import logging

import comfy.model_management
import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import KSAMPLER

from ..styleid_core.attention import mix_query_input
from ..styleid_core.blocks import Block
from ..styleid_core.features import Features, features_at, nearest_step, repeat_batch
from ..styleid_core.storage import Int8, restore, store
from .unet import select_blocks, self_attention_blocks

KEY = "styleid"
CAPTURE = "styleid_capture"
GUIDANCE = ("sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function", "disable_cfg1_optimization")
INJECT_INTO = {"both": (0, 1), "cond": (0,), "uncond": (1,)}  # as ComfyUI numbers them in cond_or_uncond
STOCHASTIC = ("ancestral", "sde", "ddpm", "seeds", "sa_solver")  # parts of the names of ComfyUI's samplers

logger = logging.getLogger(KEY)


def block_address(extra_options: dict) -> Block:
    return (*extra_options["block"], extra_options["block_index"])


def put_first(patch, model_options: dict):
    """Run `patch` before every other attn1_patch, so that it meets the LayerNorm output and not what others make of it."""
    patches = model_options["transformer_options"].setdefault("patches", {})
    patches["attn1_patch"] = [patch, *patches.get("attn1_patch", [])]


def request_capture(model, layers: str, storage: str = "auto"):
    """A clone of MODEL that asks for `layers` to be recorded when it is inverted, and kept as one of STORAGES.

    Sampling with it changes nothing. Errors as `select_blocks`.
    """
    m = model.clone()
    m.model_options["transformer_options"][CAPTURE] = select_blocks(model, layers), storage
    return m


class Recorder:
    """Owned by one inversion: keeps the self-attention inputs of `blocks`, a list of them for each model call."""

    def __init__(self, blocks: list[Block], storage: str):
        self.blocks, self.storage = blocks, storage
        self.sigmas: list[float] = []
        self.steps: list[dict[Block, torch.Tensor | Int8]] = []

    def model_call(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        sigma = float(transformer_options["sigmas"][0])
        if len(transformer_options["cond_or_uncond"]) > 1 or sigma in self.sigmas:
            raise ValueError("An inversion needs one conditioning for the whole picture, and several are connected to positive. "
                             "Give it a single prompt (the paper's is empty), not a combined or regional one.")
        self.sigmas.append(sigma)
        self.steps.append({})
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    def attn1_patch(self, n, context, value, extra_options):
        block = block_address(extra_options)
        if block in self.blocks:
            self.steps[-1][block] = store(n, self.storage, comfy.model_management.intermediate_device())
        return n, context, value

    def features(self, latent: torch.Tensor) -> Features:
        return Features(self.sigmas, self.blocks, [[step[block] for block in self.blocks] for step in self.steps], latent)


def record_requested(model) -> tuple:
    """(clone of MODEL, its Recorder), for the blocks that `request_capture` asked for, which may be none.

    The clone injects nothing and has no guidance, even if MODEL does: an inversion follows the bare prediction.
    """
    m = model.clone()
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    for name in GUIDANCE:
        m.model_options.pop(name, None)
    recorder = Recorder(*model.model_options["transformer_options"].get(CAPTURE, ([], "auto")))
    if recorder.blocks:
        m.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, CAPTURE, recorder.model_call)
        put_first(recorder.attn1_patch, m.model_options)
    return m, recorder


def keep_outside(mask: torch.Tensor, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """`result` where a ComfyUI noise mask is 1, and `original` untouched where it is 0."""
    return original.to(result).lerp(result, comfy.sampler_helpers.prepare_mask(mask, result.shape, result.device))


def rows(value, chunk: int, chunks: int, batch: int):
    """The part for one of the `chunks` in a batch of whatever the UNet is called with; what has no such batch stays whole."""
    if isinstance(value, torch.Tensor):
        return value.chunk(chunks)[chunk] if value.ndim and len(value) == batch else value
    if isinstance(value, dict):
        return {key: rows(item, chunk, chunks, batch) for key, item in value.items()}
    return [rows(item, chunk, chunks, batch) for item in value] if isinstance(value, list) else value


class Injection:
    """Owned by one sampling run: the features of the step at hand, and the tally of what was injected."""

    def __init__(self, content: Features, style: Features, gamma: float, tau: float, kinds: tuple[int, ...]):
        self.content, self.style, self.gamma, self.tau, self.kinds = content, style, gamma, tau, kinds
        self.current: dict[Block, tuple[torch.Tensor, torch.Tensor]] = {}
        self.blocks: set[Block] = set()
        self.sigmas: set[float] = set()

    def model_call(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        kinds = transformer_options["cond_or_uncond"]
        injected = {kind in self.kinds for kind in kinds}
        if len(injected) == 1:
            return self.uniform_call(executor, injected.pop(), x, timesteps, context, y, control, transformer_options, kwargs)
        # Some of the batch gets the style's keys and some its own, which may be of another number: one after the other.
        arguments = [x, timesteps, context, y, control, kwargs]
        outputs = []
        for i, kind in enumerate(kinds):
            *part, part_kwargs = rows(arguments, i, len(kinds), len(x))
            options = transformer_options | {"cond_or_uncond": [kind]}
            outputs.append(self.uniform_call(executor, kind in self.kinds, *part, options, part_kwargs))
        return torch.cat(outputs)

    def uniform_call(self, executor, inject, x, timesteps, context, y, control, transformer_options, kwargs):
        if inject:
            self.load(x, float(transformer_options["sigmas"][0]))
        output = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        self.current = {}
        return output

    def load(self, x: torch.Tensor, sigma: float):
        if tuple(x.shape[-2:]) != self.content.size:
            raise ValueError("The model is sampling only a part of the picture (an area, a tile), where StyleID's content features do not "
                             "fit. Use conditioning without an area and a sampler without tiles.")
        content, style = ({block: repeat_batch(restore(n, x), len(x)) for block, n in features_at(features, sigma).items()}
                          for features in (self.content, self.style))
        self.current = {block: (content[block], style[block]) for block in content.keys() & style.keys()}
        self.sigmas.add(sigma)

    def attn1_patch(self, n, context, value, extra_options):
        block = block_address(extra_options)
        if block not in self.current:
            return n, context, value
        n_content, n_style = self.current[block]
        if n.shape != n_content.shape or n.shape[-1] != n_style.shape[-1]:
            raise ValueError(f"The self-attention of output block {block[1]} works on {list(n.shape)} (batch, tokens, channels), "
                             f"which does not fit content_features {list(n_content.shape)} and style_features {list(n_style.shape)}. "
                             "Capture them with the model that samples, without nodes that shrink the picture inside the UNet.")
        self.blocks.add(block)
        return mix_query_input(n, n_content, self.gamma, self.tau), n_style, n_style

    def last_attn1_patch(self, n, context, value, extra_options):
        if len(n) != len(context) and block_address(extra_options) in self.current:
            raise ValueError("Another node cuts the queries of self-attention into tiles (HyperTile does), and each tile would see only a "
                             "part of the style. Remove that node.")
        return n, context, value


def inject_style(model, content: Features, style: Features, gamma: float, tau: float, inject_into: str = "both"):
    """A clone of MODEL that, for each sampling run of any sampler, injects `style` and `content` into self-attention.

    `inject_into` is one of INJECT_INTO. With a noise mask everything is sampled, and what the mask leaves out is the content's
    latent in the end. The run's own copy of the model options carries the patch: nothing stays on the model, however the run
    ends. ValueError for features that were not captured, or do not share a block with each other and this model.
    """
    check_features(model, content, style)

    def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        check_sampler(sampler)
        check_run(content, style, latent_image, sigmas)
        if torch.count_nonzero(noise):
            logger.warning("The sampler adds fresh noise to the inverted latent, which loses the content. Turn its noise off.")
        injection = Injection(content, style, gamma, tau, INJECT_INTO[inject_into])
        run_options = executor.class_obj.model_options
        put_first(injection.attn1_patch, run_options)
        run_options["transformer_options"]["patches"]["attn1_patch"].append(injection.last_attn1_patch)
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, injection.model_call, run_options, is_model_options=True)
        output = executor(noise, latent_image, sampler, sigmas, None, *args, **kwargs)
        if not injection.blocks:
            if inject_into == "uncond" and not injection.sigmas:
                raise ValueError("No style was injected: inject_into is uncond, and without cfg the negative prompt is not evaluated. "
                                 "Raise cfg above 1, or inject into both.")
            raise ValueError(f"No style was injected: the sampler called the model at {len(injection.sigmas)} of {len(sigmas)} sigmas and "
                             "reached none of the captured blocks. Give it two sigmas or more, and remove nodes that replace the UNet.")
        numbers = ", ".join(map(str, sorted({number for _, number, _ in injection.blocks})))
        logger.info("Injected style into %d self-attentions (output blocks %s) at %d steps.",
                    len(injection.blocks), numbers, len(injection.sigmas))
        return output if denoise_mask is None else keep_outside(denoise_mask, output, content.latent)

    m = model.clone()
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    m.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return m


def check_features(model, content: Features, style: Features):
    for name, features in (("content", content), ("style", style)):
        if not features.steps:
            raise ValueError(f"The {name}_features are empty. Put CaptureSelfAttention between the model and the DDIMInvert "
                             "that they come from.")
    shared = set(content.blocks) & set(style.blocks)
    if not shared & set(self_attention_blocks(model)):
        numbers = [sorted({number for _, number, _ in features.blocks}) for features in (content, style)]
        raise ValueError(f"content_features were captured in output blocks {numbers[0]}, style_features in {numbers[1]}, and none of "
                         "them is common to both and this model. Capture both with the same layers, from the model that samples.")


def check_sampler(sampler):
    name = sampler.sampler_function.__name__.removeprefix("sample_") if isinstance(sampler, KSAMPLER) else ""
    if any(kind in name for kind in STOCHASTIC) and sampler.extra_options.get("eta") != 0:
        raise ValueError(f"The sampler {name} adds noise at every step and leaves the path that was inverted. "
                         "Use a deterministic one: euler, ddim, heun, dpmpp_2m, uni_pc.")


def check_run(content: Features, style: Features, latent_image: torch.Tensor, sigmas: torch.Tensor):
    batch, size = latent_image.shape[0], tuple(latent_image.shape[-2:])
    if size != content.size:
        raise ValueError("content_features were captured from a latent of {}x{}, and the latent being sampled is {}x{} (height x width). "
                         "Sample the latent that DDIMInvert gave together with them.".format(*content.size, *size))
    for name, features in (("content", content), ("style", style)):
        if features.batch not in (1, batch):
            raise ValueError(f"{name}_features hold {features.batch} images and the latent being sampled holds {batch}. "
                             f"Give one {name} for all, or one for each.")
        for sigma in sigmas.tolist():
            if sigma > 0:
                nearest_step(features, sigma)
