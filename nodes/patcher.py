"""The injection into any sampling run of a MODEL, by patches and wrappers that the run owns."""

from functools import partial
from typing import NamedTuple
from uuid import UUID

import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..styleid_core.attention import mix_query_input
from ..styleid_core.blocks import Block, quote
from ..styleid_core.features import Features, Reader, nearest_step, repeat_batch
from ..styleid_core.storage import map_tensors, restore
from .company import frames_of, hook_references, sides_of, with_own_values
from .compilation import call, own_graphs
from .conditioning import check_areas
from .memory import fits_in_one_batch
from .recording import KEY, ModelCall, block_address, logger, put_first, replay_all
from .samplers import check_sampler
from .sampling import check_numbers, check_prediction
from .unet import select_blocks, self_attention_blocks

INJECT_INTO = {"both": ("cond", "uncond"), "cond": ("cond",), "uncond": ("uncond",)}


class Settings(NamedTuple):
    """How to inject: `gamma` and `tau` as in `mix_query_input`, `inject_into` one of INJECT_INTO, `start` and `end` the part of the
    sampling as ComfyUI counts it (0: pure noise, 1: the picture), `layers` those of the captured blocks that take part (empty: all).
    """
    gamma: float
    tau: float
    inject_into: str = "both"
    start: float = 0.0
    end: float = 1.0
    layers: str = ""


def check_settings(settings: Settings) -> Settings:
    check_numbers(gamma=settings.gamma, temperature=settings.tau, start_percent=settings.start, end_percent=settings.end)
    if settings.start >= settings.end:
        raise ValueError(f"start_percent {settings.start:g} is not below end_percent {settings.end:g}, so nothing would be injected.")
    return settings


def is_replayed(features: Features) -> bool:
    return isinstance(features.steps[0], ModelCall)


def keep_outside(mask: torch.Tensor, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """`result` where a ComfyUI noise mask is 1, and `original` untouched where it is 0."""
    return original.to(result).lerp(result, comfy.sampler_helpers.prepare_mask(mask, result.shape, result.device))


def rows(value, chunk: int, chunks: int, batch: int):
    """The part for one of the `chunks` in a batch of whatever the UNet is called with; what has no such batch stays whole."""
    return map_tensors(lambda tensor: tensor.chunk(chunks)[chunk] if tensor.ndim and len(tensor) == batch else tensor, value)


def taken(n: torch.Tensor, frames: list[int] | None) -> torch.Tensor:
    """n (batch, tokens, channels) of some of the batch, unless it is of one picture for all."""
    return n if frames is None or len(n) == 1 else n[frames]


class Injection:
    """Owned by one sampling run of MODEL: the features of the step at hand, and the tally of what was injected."""

    def __init__(self, model, content: Features, style: Features, settings: Settings, batch: int, sides: dict[UUID, str]):
        self.model, self.content, self.style, self.settings = model, content, style, settings
        self.batch, self.sides = batch, sides  # of the latent, and of the prompts as `sides_of`
        self.highest, self.lowest = sigma_range(model, settings)
        self.readers = [Reader(features, model.load_device) for features in (content, style)]
        self.sigma, self.features = 0.0, []  # as read or computed again for the last sigma
        self.current: dict[Block, tuple[torch.Tensor, torch.Tensor]] = {}
        self.replaced: set[Block] = set()  # those of `current` whose attention is another node's
        self.reached: dict[Block, bool] = dict.fromkeys(content.blocks, False)
        self.call, self.gamma, self.tau = call, settings.gamma, settings.tau
        self.sigmas: set[float] = set()

    def is_injected(self, sigma: float, index: int, uuid: UUID) -> bool:
        """Whether a call is: for the prompt `uuid`, or, where another node made that up, by its place in cond_or_uncond."""
        side = self.sides.get(uuid, "uncond" if index else "cond")
        return self.lowest <= sigma <= self.highest and side in INJECT_INTO[self.settings.inject_into]

    def model_call(self, executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        sigma, indices, uuids = float(transformer_options["sigmas"][0]), transformer_options["cond_or_uncond"], transformer_options["uuids"]
        injected = [self.is_injected(sigma, index, uuid) for index, uuid in zip(indices, uuids)]
        if len(set(injected)) == 1:
            at = sigma if injected[0] else None
            return self.uniform_call(executor, at, x, timesteps, context, y, control, transformer_options, kwargs)
        # Some of the batch gets the style's keys and some its own, which may be of another number: one after the other.
        arguments = [x, timesteps, context, y, control, kwargs]
        outputs = []
        for i, (index, uuid, inside) in enumerate(zip(indices, uuids, injected)):
            *part, part_kwargs = rows(arguments, i, len(indices), len(x))
            options = transformer_options | {"cond_or_uncond": [index], "uuids": [uuid]}
            outputs.append(self.uniform_call(executor, sigma if inside else None, *part, options, part_kwargs))
        return torch.cat(outputs)

    def uniform_call(self, executor, sigma, x, timesteps, context, y, control, transformer_options, kwargs):
        """With the features of `sigma`, or without any where it is None."""
        if sigma is not None:
            self.load(executor, sigma, x, transformer_options)
            transformer_options = self.beside_replacements(transformer_options)
        output = self.call(executor, x, timesteps, context, y, control, transformer_options, **kwargs)
        self.current, self.replaced = {}, set()
        return output

    def load(self, executor, sigma, x, transformer_options):
        if tuple(x.shape[-2:]) != self.content.size:
            raise ValueError("The model is sampling only a part of the picture (an area, a tile), where StyleID's content features do not "
                             "fit. Use conditioning without an area and a sampler without tiles.")
        frames = frames_of(transformer_options, self.batch)
        calls, latents = len(transformer_options["cond_or_uncond"]), self.batch if frames is None else len(frames)
        if len(x) != calls * latents and max(self.content.batch, self.style.batch) > 1:
            raise ValueError(f"The model is called with {len(x)} latents, and {calls} x {latents} are sampled: another node samples tiles, "
                             "or a part of the batch, and StyleID cannot tell which. Remove it, or give one content and one style.")
        if sigma != self.sigma:
            self.features = []  # frees one step before the next takes memory
            self.sigma, self.features = sigma, self.features_at(sigma, executor, x.device, transformer_options)
        content, style = ({block: repeat_batch(taken(restore(n, x), frames), len(x)) for block, n in features.items()}
                          for features in self.features)
        self.current = {block: (content[block], style[block]) for block in content}
        if self.call is not call:  # a graph takes numbers for constants, and tensors for inputs
            self.gamma, self.tau = torch.tensor(self.settings.gamma).to(x), torch.tensor(self.settings.tau, device=x.device)
        self.sigmas.add(sigma)

    def beside_replacements(self, transformer_options: dict) -> dict:
        """The same, with the attention that other nodes put in place of an injected one as `with_own_values`."""
        replacements = transformer_options.get("patches_replace", {}).get("attn1", {})
        wrapped = {}
        for block, (n_content, _) in self.current.items():
            key = block if block in replacements else block[:2]
            if key in replacements:
                wrapped[block] = with_own_values(replacements[key], n_content.shape[1])
        if not wrapped:
            return transformer_options
        self.replaced = set(wrapped)
        return transformer_options | {"patches_replace": transformer_options["patches_replace"] | {"attn1": replacements | wrapped}}

    def features_at(self, sigma: float, executor, device, transformer_options) -> list[dict]:
        """Of content and style: read, or, where only the inversion's calls were kept, computed again."""
        calls = [features.steps[nearest_step(features, sigma)] for features in (self.content, self.style) if is_replayed(features)]
        if any(call.hooks != hook_references(self.model) for call in calls):
            raise ValueError("The features are recomputed, and the prompts of inversion and sampling have different LoRA hooks. Connect "
                             "the same hooks to both, or let Capture Self-Attention keep the features (place auto).")
        fits = partial(fits_in_one_batch, self.model)
        replayed = iter(replay_all(executor, calls, self.content.blocks, device, transformer_options, fits))
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
        self.reached[block] = True
        context = torch.cat((n, n_style), 1) if block in self.replaced else n_style
        return mix_query_input(n, n_content, self.gamma, self.tau), context, context

    def last_attn1_patch(self, n, context, value, extra_options):
        block = block_address(extra_options)
        if block in self.current and not len(n) == len(context) == len(self.current[block][0]):
            raise ValueError("Another node cuts the queries of self-attention into tiles (HyperTile does), and each tile would see only a "
                             "part of the style. Remove that node.")
        return n, context, value


def inject_style(model, content: Features, style: Features, settings: Settings):
    """A clone of MODEL that, for each sampling run of any sampler, injects `style` and `content` into self-attention.

    With a noise mask everything is sampled, and what the mask leaves out is the content's latent in the end. The run's own copy of
    the model options carries the patch: nothing stays on the model, however the run ends. ValueError for features that were not
    captured, or do not share a block with each other and this model, or lack one that `settings.layers` names.
    """
    content, style = captured_in(model, settings.layers, content, style)

    def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        guider = executor.class_obj
        check_sampler(guider.model_patcher, getattr(guider, "cfg", 1.0), sampler, sigmas)
        injection = Injection(guider.model_patcher, content, style, settings, len(latent_image), sides_of(guider.conds))
        check_run(injection, latent_image, sigmas)
        for name, entries in guider.conds.items():
            check_areas(name, entries)
        if denoise_mask is not None and "denoise_mask_function" in guider.model_options:
            logger.warning("Differential Diffusion has no effect beside the injection: the mask is blended in once, at the end.")
        if torch.count_nonzero(noise):
            logger.warning("The sampler adds fresh noise to the inverted latent, which loses the content. Turn its noise off.")
        run_options = guider.model_options
        put_first(injection.attn1_patch, run_options["transformer_options"])
        run_options["transformer_options"]["patches"]["attn1_patch"].append(injection.last_attn1_patch)
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, injection.model_call, run_options, is_model_options=True)
        # A copy: uni_pc writes into its sigmas, which on a CPU are those that ComfyUI keeps for the next run.
        with own_graphs(run_options, run_options["transformer_options"]["wrappers"]) as injection.call:
            output = executor(noise, latent_image, sampler, sigmas.clone(), None, *args, **kwargs)
        check_prediction(output)
        blocks = [block for block, reached in injection.reached.items() if reached]
        if not blocks:
            if settings.inject_into == "uncond" and not injection.sigmas:
                raise ValueError("No style was injected: inject_into is uncond, and without cfg the negative prompt is not evaluated. "
                                 "Raise cfg above 1, or inject into both.")
            raise ValueError(f"No style was injected: the sampler called the model at {len(injection.sigmas)} of {len(sigmas)} sigmas and "
                             "reached none of the captured blocks. Give it two sigmas or more, and remove nodes that replace the UNet.")
        numbers = ", ".join(map(str, sorted({number for _, number, _ in blocks})))
        logger.info("Injected style into %d self-attentions (output blocks %s) at %d steps.",
                    len(blocks), numbers, len(injection.sigmas))
        return output if denoise_mask is None else keep_outside(denoise_mask, output, content.latent)

    m = model.clone()
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    m.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return m


def sigma_range(model, settings: Settings) -> tuple[float, float]:
    """(highest, lowest) sigma at which to inject."""
    sampling = model.get_model_object("model_sampling")
    return tuple(float(sampling.percent_to_sigma(percent)) for percent in (settings.start, settings.end))


def injected_sigmas(model, settings: Settings, sigmas: torch.Tensor) -> list[float]:
    """Those of `sigmas` (N + 1,) that are evaluated and injected at; ValueError for none of N."""
    highest, lowest = sigma_range(model, settings)
    sampled = sigmas[:-1].tolist()  # the last is where the sampling ends, and not evaluated
    wanted = [sigma for sigma in sampled if sigma > 0 and lowest <= sigma <= highest]
    if sampled and not wanted:
        raise ValueError(f"No style would be injected: none of the sigmas that are sampled lies between start_percent {settings.start:g} "
                         f"and end_percent {settings.end:g}. Widen them, or sample this part with the model that has no style.")
    return wanted


def captured_in(model, layers: str, *both: Features) -> list[Features]:
    """Features of content and style, of only the blocks that `layers` names; ValueError for what was not captured."""
    for name, features in zip(("content", "style"), both):
        if not features.steps:
            raise ValueError(f"The {name}_features are empty. Put CaptureSelfAttention between the model and the DDIMInvert "
                             "that they come from.")
        if is_replayed(features) and features.steps[0].model() not in (None, model.model):
            raise ValueError(f"The {name}_features are recomputed, by a model that was not the one that is sampled. Invert with the same "
                             "checkpoint, or let Capture Self-Attention keep them (place auto).")
    numbers = [sorted({number for _, number, _ in features.blocks}) for features in both]
    shared = [block for block in both[0].blocks if block in both[1].blocks]
    if not set(shared) & set(self_attention_blocks(model)):
        raise ValueError(f"content_features were captured in output blocks {numbers[0]}, style_features in {numbers[1]}, and none of "
                         "them is common to both and this model. Capture both with the same layers, from the model that samples.")
    if layers.strip():
        chosen = select_blocks(model, layers)
        missing, there = (sorted({number for _, number, _ in blocks}) for blocks in (set(chosen) - set(shared), shared))
        if missing:
            raise ValueError(f"layers {quote(layers)}: output blocks {missing} were not captured. Choose from {there}, or capture more.")
        shared = chosen
    return [only_blocks(features, shared) for features in both]


def only_blocks(features: Features, blocks: list[Block]) -> Features:
    steps = features.steps
    if not is_replayed(features):
        indices = [features.blocks.index(block) for block in blocks]
        steps = [[step[i] for i in indices] for step in steps]
    return features._replace(blocks=blocks, steps=steps)


def check_run(injection: Injection, latent_image: torch.Tensor, sigmas: torch.Tensor):
    content, style, settings = injection.content, injection.style, injection.settings
    batch, size = latent_image.shape[0], tuple(latent_image.shape[-2:])
    if size != content.size:
        raise ValueError("content_features were captured from a latent of {}x{}, and the latent being sampled is {}x{} (height x width). "
                         "Sample the latent that DDIMInvert gave together with them.".format(*content.size, *size))
    wanted = injected_sigmas(injection.model, settings, sigmas)
    for name, features in (("content", content), ("style", style)):
        if features.batch not in (1, batch):
            raise ValueError(f"{name}_features hold {features.batch} images and the latent being sampled holds {batch}. "
                             f"Give one {name} for all, or one for each.")
        for sigma in wanted:
            nearest_step(features, sigma)
