"""The injection into any sampling run of a MODEL, by patches and wrappers that the run owns."""

from functools import partial
from uuid import UUID

import comfy.sampler_helpers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...styleid_core.blocks import Block, listed
from ...styleid_core.features import nearest_step, repeat_batch
from ...styleid_core.storage import map_tensors, restore
from ...styleid_core.style import INJECT_INTO, Style
from . import KEY, checks, logger
from .company import frames_of, sides_of
from .compilation import call, own_graphs
from .families import family_of
from .memory import fits_in_one_batch
from .samplers import check_sampler
from .sources import READERS, replay, replay_all


def keep_outside(mask: torch.Tensor, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """`result` where a ComfyUI noise mask is 1, and `original` untouched where it is 0."""
    return original.to(result).lerp(result, comfy.sampler_helpers.prepare_mask(mask, result.shape, result.device))


def rows(value, chunk: int, chunks: int, batch: int):
    """The part for one of the `chunks` in a batch of whatever the model is called with; what has no such batch stays whole."""
    return map_tensors(lambda tensor: tensor.chunk(chunks)[chunk] if tensor.ndim and len(tensor) == batch else tensor, value)


def taken(n: torch.Tensor, frames: list[int] | None) -> torch.Tensor:
    """n (batch, tokens, channels) of some of the batch, unless it is of one picture for all."""
    return n if frames is None or len(n) == 1 else n[frames]


class Injection:
    """Owned by one sampling run of MODEL: the features of the step at hand, and the tally of what was injected."""

    def __init__(self, model: ModelPatcher, style: Style, batch: int, sides: dict[UUID, str]):
        self.model, self.family, self.style = model, family_of(model), style
        self.batch, self.sides = batch, sides  # of the latent, and of the prompts as `sides_of`
        self.highest, self.lowest = sigma_range(model, style.start, style.end)
        self.readers = [READERS[type(features.source)](features, model) for features in (style.content, style.features)]
        self.sigma, self.features = 0.0, []  # as read or computed again for the last sigma
        self.current: dict[Block, tuple[torch.Tensor, torch.Tensor]] = {}  # n of content and style in the model call at hand
        self.replaced: set[Block] = set()  # those of `current` whose attention is another node's
        self.reached: dict[Block, bool] = dict.fromkeys(style.content.blocks, False)
        self.call, self.gamma, self.tau = call, style.gamma, style.tau
        self.sigmas: set[float] = set()

    def is_injected(self, sigma: float, index: int, uuid: UUID) -> bool:
        """Whether a call is: for the prompt `uuid`, or, where another node made that up, by its place in cond_or_uncond."""
        side = self.sides.get(uuid, "uncond" if index else "cond")
        return self.lowest <= sigma <= self.highest and side in INJECT_INTO[self.style.inject_into]

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
            transformer_options = self.family.call_options(transformer_options, self)
        output = self.call(executor, x, timesteps, context, y, control, transformer_options, **kwargs)
        self.current, self.replaced = {}, set()
        return output

    def load(self, executor, sigma, x, transformer_options):
        content, style = self.style.content, self.style.features
        checks.whole_picture(tuple(x.shape[-2:]), content.size)
        frames = frames_of(transformer_options, self.batch)
        if max(content.batch, style.batch) > 1:
            checks.whole_batch(len(x), len(transformer_options["cond_or_uncond"]), self.batch if frames is None else len(frames))
        if sigma != self.sigma:
            self.features = []  # frees one step before the next takes memory
            self.sigma, self.features = sigma, self.features_at(sigma, executor, x.device, transformer_options)
        n_content, n_style = ({block: repeat_batch(taken(restore(n, x), frames), len(x)) for block, n in features.items()}
                              for features in self.features)
        self.current = {block: (n_content[block], n_style[block]) for block in n_content}
        if self.call is not call:  # a graph takes numbers for constants, and tensors for inputs
            self.gamma, self.tau = torch.tensor(self.style.gamma).to(x), torch.tensor(self.style.tau, device=x.device)
        self.sigmas.add(sigma)

    def features_at(self, sigma: float, executor, device: torch.device, transformer_options: dict) -> list[dict]:
        """Of content and style."""
        again = partial(replay, executor, family=self.family, blocks=self.style.content.blocks, device=device, options=transformer_options)
        computed = iter(replay_all([made for reader in self.readers for made in reader.calls(sigma)], again,
                                   partial(fits_in_one_batch, self.model)))
        return [reader.take(sigma, computed) for reader in self.readers]


def inject_style(model: ModelPatcher, style: Style) -> ModelPatcher:
    """A clone of MODEL that injects `style` into the self-attention of each sampling run, by any sampler.

    With a noise mask everything is sampled, and what the mask leaves out is the content's latent in the end. The run's own copy of
    the model options carries the patch: nothing stays on the model, however the run ends.
    """
    def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        guider = executor.class_obj
        check_sampler(guider.model_patcher, getattr(guider, "cfg", 1.0), sampler, sigmas)
        injection = Injection(guider.model_patcher, style, len(latent_image), sides_of(guider.conds))
        check_run(injection, latent_image, sigmas)
        for name, entries in guider.conds.items():
            checks.areas(name, entries)
        if denoise_mask is not None and "denoise_mask_function" in guider.model_options:
            logger.warning("Differential Diffusion has no effect beside the injection: the mask is blended in once, at the end.")
        if torch.count_nonzero(noise):
            logger.warning("The sampler adds fresh noise to the inverted latent, which loses the content. Turn its noise off.")
        run_options = guider.model_options
        injection.family.inject(run_options["transformer_options"], injection)
        add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, injection.model_call, run_options, is_model_options=True)
        # A copy: uni_pc writes into its sigmas, which on a CPU are those that ComfyUI keeps for the next run.
        with own_graphs(run_options, run_options["transformer_options"]["wrappers"]) as injection.call:
            output = executor(noise, latent_image, sampler, sigmas.clone(), None, *args, **kwargs)
        checks.prediction(output)
        blocks = [block for block, reached in injection.reached.items() if reached]
        checks.some_injected(blocks, len(injection.sigmas), len(sigmas), style.inject_into)
        logger.info("Injected style into %d self-attentions (%s) at %d steps.", len(blocks), listed(blocks), len(injection.sigmas))
        return output if denoise_mask is None else keep_outside(denoise_mask, output, style.content.latent)

    m = model.clone()
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    m.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, outer_sample)
    return m


def sigma_range(model: ModelPatcher, start: float, end: float) -> tuple[float, float]:
    """(highest, lowest) sigma at which to inject, of a part of the sampling as in `Style`."""
    sampling = model.get_model_object("model_sampling")
    return tuple(float(sampling.percent_to_sigma(percent)) for percent in (start, end))


def injected_sigmas(model: ModelPatcher, start: float, end: float, sigmas: torch.Tensor) -> list[float]:
    """Those of `sigmas` (N + 1,) that are evaluated and injected at; ValueError for none of N."""
    highest, lowest = sigma_range(model, start, end)
    sampled = sigmas[:-1].tolist()  # the last is where the sampling ends, and not evaluated
    wanted = [sigma for sigma in sampled if sigma > 0 and lowest <= sigma <= highest]
    return checks.some_sigmas(wanted, sampled, start, end)


def check_run(injection: Injection, latent_image: torch.Tensor, sigmas: torch.Tensor):
    style = injection.style
    checks.sampled_size(tuple(latent_image.shape[-2:]), style.content.size)
    wanted = injected_sigmas(injection.model, style.start, style.end, sigmas)
    for name, features in (("content", style.content), ("style", style.features)):
        checks.sampled_batch(name, features.batch, len(latent_image))
        for sigma in wanted:
            nearest_step(features, sigma)
