"""The injection into any sampling run of a MODEL, by patches and wrappers that the run owns."""

from functools import partial

import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from comfy.samplers import KSAMPLER

from ..styleid_core.attention import mix_query_input
from ..styleid_core.blocks import Block
from ..styleid_core.features import Features, Reader, nearest_step, repeat_batch
from ..styleid_core.storage import map_tensors, restore
from .memory import fits_in_one_batch
from .recording import KEY, ModelCall, block_address, logger, put_first, replay_all
from .unet import self_attention_blocks

INJECT_INTO = {"both": (0, 1), "cond": (0,), "uncond": (1,)}  # as ComfyUI numbers them in cond_or_uncond
STOCHASTIC = ("ancestral", "sde", "ddpm", "seeds", "sa_solver")  # parts of the names of ComfyUI's samplers


def is_replayed(features: Features) -> bool:
    return isinstance(features.steps[0], ModelCall)


def keep_outside(mask: torch.Tensor, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """`result` where a ComfyUI noise mask is 1, and `original` untouched where it is 0."""
    return original.to(result).lerp(result, comfy.sampler_helpers.prepare_mask(mask, result.shape, result.device))


def rows(value, chunk: int, chunks: int, batch: int):
    """The part for one of the `chunks` in a batch of whatever the UNet is called with; what has no such batch stays whole."""
    return map_tensors(lambda tensor: tensor.chunk(chunks)[chunk] if tensor.ndim and len(tensor) == batch else tensor, value)


class Injection:
    """Owned by one sampling run of MODEL: the features of the step at hand, and the tally of what was injected."""

    def __init__(self, model, content: Features, style: Features, gamma: float, tau: float, kinds: tuple[int, ...]):
        self.model, self.content, self.style, self.gamma, self.tau, self.kinds = model, content, style, gamma, tau, kinds
        self.readers = [Reader(features, model.load_device) for features in (content, style)]
        self.sigma, self.features = 0.0, []  # as read or computed again for the last sigma
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
            self.load(executor, x, transformer_options)
        output = executor(x, timesteps, context, y, control, transformer_options, **kwargs)
        self.current = {}
        return output

    def load(self, executor, x, transformer_options):
        if tuple(x.shape[-2:]) != self.content.size:
            raise ValueError("The model is sampling only a part of the picture (an area, a tile), where StyleID's content features do not "
                             "fit. Use conditioning without an area and a sampler without tiles.")
        sigma = float(transformer_options["sigmas"][0])
        if sigma != self.sigma:
            self.features = []  # frees one step before the next takes memory
            self.sigma, self.features = sigma, self.features_at(sigma, executor, x.device, transformer_options)
        content, style = ({block: repeat_batch(restore(n, x), len(x)) for block, n in features.items()} for features in self.features)
        self.current = {block: (content[block], style[block]) for block in content.keys() & style.keys()}
        self.sigmas.add(sigma)

    def features_at(self, sigma: float, executor, device, transformer_options) -> list[dict]:
        """Of content and style: read, or, where only the inversion's calls were kept, computed again."""
        calls = [features.steps[nearest_step(features, sigma)] for features in (self.content, self.style) if is_replayed(features)]
        blocks = [block for block in self.content.blocks if block in self.style.blocks]
        replayed = iter(replay_all(executor, calls, blocks, device, transformer_options, partial(fits_in_one_batch, self.model)))
        return [next(replayed) if is_replayed(reader.features) else reader.read(sigma) for reader in self.readers]

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
        guider = executor.class_obj
        injection = Injection(guider.model_patcher, content, style, gamma, tau, INJECT_INTO[inject_into])
        run_options = guider.model_options
        put_first(injection.attn1_patch, run_options["transformer_options"])
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
