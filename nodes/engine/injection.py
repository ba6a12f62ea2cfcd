"""The injection into any sampling run of a MODEL, by patches and wrappers that the run owns."""

from functools import partial
from uuid import UUID

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...styleid_core.blocks import Block, listed
from ...styleid_core.ddim import sample_fireflow
from ...styleid_core.features import Features, nearest_step, only_blocks, reaches_picture, repeat_batch
from ...styleid_core.plan import KeySet
from ...styleid_core.storage import map_tensors, restore
from ...styleid_core.style import INJECT_INTO, Style
from . import KEY, checks, logger
from .company import frames_of, sides_of
from .compilation import call, own_graphs
from .families import family_of
from .families.positions import POSITIONS, Positions
from .lockstep import Companion
from .memory import fits_in_one_batch
from .regions import Regions
from .samplers import check_sampler
from .sampling import keep_outside
from .sources import READERS, patched, replay, replay_all


def rows(value, chunk: int, chunks: int, batch: int):
    """The part for one of the `chunks` in a batch of whatever the model is called with; what has no such batch stays whole."""
    return map_tensors(lambda tensor: tensor.chunk(chunks)[chunk] if tensor.ndim and len(tensor) == batch else tensor, value)


def taken(n: torch.Tensor, frames: list[int] | None) -> torch.Tensor:
    """n (batch, tokens, channels) of some of the batch, unless it is of one picture for all."""
    return n if frames is None or len(n) == 1 else n[frames]


class Injection:
    """Owned by one sampling run of MODEL: what its styles need of the step at hand, and the tally of what was injected."""

    def __init__(self, model: ModelPatcher, styles: list[Style], batch: int, sides: dict[UUID, str]):
        self.model, self.family, self.styles = model, family_of(model), styles
        self.batch, self.sides = batch, sides  # of the latent, and of the prompts as `sides_of`
        self.ranges = [sigma_range(model, style.start, style.end) for style in styles]
        captured = {block for style in styles for block in style.content.blocks}
        self.blocks = [block for block in self.family.blocks(model) if block in captured]
        # Styles that are injected into one content share its features.
        self.readers = {id(features.source): READERS[type(features.source)](features, model)
                        for style in styles for features in (style.content, style.features)}
        self.sigma, self.features = 0.0, {}  # by the id of their source, as read or computed again for the last sigma
        self.regions = Regions(model, self.family, self.blocks)
        self.at, self.plans = None, {}  # of the model call at hand: what `plan` needs, and what a family makes of it beforehand
        self.reached: dict[Block, bool] = dict.fromkeys(self.blocks, False)
        self.call = call  # or compiled
        self.sigmas: set[float] = set()

    def active(self, sigma: float, index: int, uuid: UUID) -> list[Style]:
        """Those that are injected into a call: for the prompt `uuid`, or, where another node made that up, by its place in
        cond_or_uncond.
        """
        side = self.sides.get(uuid, "uncond" if index else "cond")
        return [style for style, (highest, lowest) in zip(self.styles, self.ranges)
                if lowest <= sigma <= highest and side in INJECT_INTO[style.inject_into]]

    def model_call(self, executor, x, *arguments, **kwargs):
        *arguments, transformer_options = arguments
        sigma, indices, uuids = float(transformer_options["sigmas"][0]), transformer_options["cond_or_uncond"], transformer_options["uuids"]
        active = [self.active(sigma, index, uuid) for index, uuid in zip(indices, uuids)]
        if all(same(styles, active[0]) for styles in active):
            return self.uniform_call(executor, active[0], sigma, [x, *arguments], transformer_options, kwargs)
        # Parts of the batch attend to other styles, or to their own keys, which may be of another number: one after the other.
        arguments = [x, *arguments, kwargs]
        outputs = []
        for i, (index, uuid, styles) in enumerate(zip(indices, uuids, active)):
            *part, part_kwargs = rows(arguments, i, len(indices), len(x))
            options = transformer_options | {"cond_or_uncond": [index], "uuids": [uuid]}
            outputs.append(self.uniform_call(executor, styles, sigma, part, options, part_kwargs))
        return torch.cat(outputs)

    def uniform_call(self, executor, styles, sigma, arguments, transformer_options, kwargs):
        """With the same styles for all of the batch."""
        if not styles:
            return self.call(executor, *arguments, transformer_options, **kwargs)
        try:
            self.load(executor, styles, sigma, arguments, transformer_options, kwargs)
            return self.call(executor, *arguments, self.family.call_options(self.model, transformer_options, kwargs, self), **kwargs)
        finally:
            self.at, self.plans = None, {}
            for source in [source for source, features in self.features.items() if isinstance(features, Companion)]:
                self.features.pop(source).close()

    def load(self, executor, styles, sigma, arguments, transformer_options, kwargs):
        """What the plans for a call on x (batch, C, H, W), the first of its arguments, with these styles are made of."""
        x = arguments[0]
        checks.whole_picture(tuple(x.shape[-2:]), styles[0].content.size)
        frames = frames_of(transformer_options, self.batch)
        pictures = [len(each) for style in styles for each in (style.content.latent, style.features.latent, style.mask) if each is not None]
        if max(pictures) > 1:
            checks.whole_batch(len(x), len(transformer_options["cond_or_uncond"]), self.batch if frames is None else len(frames))
        if sigma != self.sigma:
            self.sigma, self.features = sigma, {}  # frees one step before the next takes memory
        self.features |= self.features_at(sigma, styles, executor, x.device, transformer_options)
        self.sigmas.add(sigma)

        def for_batch(tensor):
            """(batch of the latent or 1, ...) as that of x."""
            return repeat_batch(taken(tensor, frames), len(x))

        place = self.family.place(self.model, arguments, kwargs)
        self.at = styles, sigma, x.to(self.model.model.get_dtype_inference()), place, for_batch

    def plan(self, block: Block) -> list[KeySet]:
        """What the queries of `block` attend to in the model call at hand; nothing where no style has a weight."""
        styles, sigma, x, place, for_batch = self.at
        sets, weights, given = [], [], {}
        for style in styles:
            gamma, tau, weight = style.at(sigma)
            if not weight or block not in style.content.blocks:
                continue
            if self.call is not call:  # a graph takes numbers for constants, and tensors for inputs
                gamma, tau = torch.tensor(gamma).to(x), torch.tensor(tau, device=x.device)
            for features in (style.content, style.features):
                if (source := id(features.source)) not in given:
                    n = restore(self.features[source][block], x)
                    given[source] = for_batch(self.family.at_place(self.model, n, place - features.place))
            n_content, n_style = (given[id(features.source)] for features in (style.content, style.features))
            sets.append(KeySet(n_style=self.regions.kept(style, block, n_style), n_content=n_content, gamma=gamma, tau=tau,
                               auto=style.auto_tau))
            weights.append((style, weight))
        parts = self.regions.parts(weights, block, n_content) if sets else []
        return [each._replace(share=part[0] if part[0] is None else for_batch(part[0]), rows=part[1])
                for each, part in zip([KeySet(), *sets], parts) if part]

    def features_at(self, sigma: float, styles: list[Style], executor, device: torch.device, transformer_options: dict) -> dict[int, dict]:
        """Those that are not there yet, by the id of their source."""
        sources = {id(features.source) for style in styles for features in (style.content, style.features)}
        readers = {source: reader for source, reader in self.readers.items() if source in sources - self.features.keys()}
        calls = [made for reader in readers.values() for made in reader.calls(sigma)]
        again = partial(replay, executor, model=self.model, blocks=self.blocks, device=device, options=transformer_options)
        if self.family.IN_LOCKSTEP and not any(map(patched, calls)):
            computed = [Companion(partial(again, made), device) for made in calls]
        else:
            computed = replay_all(calls, again, partial(fits_in_one_batch, self.model))
        taken = iter(computed)
        return {source: reader.take(sigma, taken) for source, reader in readers.items()}


def same(a: list, b: list) -> bool:
    """Whether two lists hold the same objects."""
    return [id(item) for item in a] == [id(item) for item in b]


class SampledWith:
    """The wrapper of ComfyUI's outer_sample that injects `styles` into the run."""

    def __init__(self, styles: list[Style]):
        self.styles = styles  # in no tuple, whose tensors torch.compile would take for inputs of the model

    def __call__(self, executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        guider = executor.class_obj
        # A copy: uni_pc writes into its sigmas, which on a CPU are those that ComfyUI keeps for the next run.
        sigmas = sigmas.clamp(max=family_of(guider.model_patcher).path(guider.model_patcher).most)
        check_sampler(guider.model_patcher, getattr(guider, "cfg", 1.0), sampler, sigmas)
        injection = Injection(guider.model_patcher, self.styles, len(latent_image), sides_of(guider.conds))
        wanted = check_run(injection, latent_image, sampler, sigmas, denoise_mask is not None)
        for name, entries in guider.conds.items():
            checks.areas(name, entries)
        if denoise_mask is not None and "denoise_mask_function" in guider.model_options:
            logger.warning("Differential Diffusion has no effect beside the injection: the mask is blended in once, at the end.")
        if torch.count_nonzero(noise):
            checks.fresh_noise(latent_image, self.styles[0].content, float(sigmas[0]))
        run_options = guider.model_options
        injection.family.inject(run_options["transformer_options"], injection)
        add_wrapper_with_key(injection.family.WRAPPED, KEY, injection.model_call, run_options, is_model_options=True)
        with own_graphs(run_options, run_options["transformer_options"]["wrappers"]) as injection.call:
            output = executor(noise, latent_image, sampler, sigmas, None, *args, **kwargs)
        checks.prediction(output)
        blocks = [block for block, reached in injection.reached.items() if reached]
        if wanted:
            checks.some_injected(blocks, len(injection.sigmas), len(sigmas), [style.inject_into for style in self.styles])
        logger.info("Injected %s into %d self-attentions (%s) at %d steps.", "style" if len(self.styles) == 1 else
                    f"{len(self.styles)} styles", len(blocks), listed(blocks), len(injection.sigmas))
        if denoise_mask is None:
            return output
        content = self.styles[0].content
        if not reaches_picture(content, float(sigmas[-1])):
            logger.info("The sampling ends in the noise, and its mask waits for the end: sample the rest with a model that has a "
                        "style too.")
            return output
        return keep_outside(denoise_mask, output, content.latent)


def inject_style(model: ModelPatcher, style: Style) -> ModelPatcher:
    """A clone of MODEL that injects `style` into the self-attention of each sampling run, by any sampler, beside those it injects already.

    With a noise mask everything is sampled, and what the mask leaves out is the content's latent in the end. The run's own copy of
    the model options carries the patch: nothing stays on the model, however the run ends.
    """
    m = model.clone()
    before = [style for wrapper in m.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY) for style in wrapper.styles]
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    m.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, SampledWith([*before, style]))
    return m


def check_features(name: str, features: Features, model: ModelPatcher):
    """ValueError for features, of the content or the style as `name` says, that were not captured or that MODEL cannot sample with."""
    checks.captured(f"{name}_", features)
    READERS[type(features.source)].check(name, features, model)


def inject_captured(model: ModelPatcher, blocks: str, style: Style) -> ModelPatcher:
    """A clone of MODEL that injects captured features: `blocks` is "auto" or empty for all that both were captured in.

    ValueError for features that were not captured, or lack a block that is named or all of those that this model has.
    """
    checks.span(style.start, style.end)
    for name, features in (("content", style.content), ("style", style.features)):
        check_features(name, features, model)
    family = family_of(model)
    chosen = checks.common_blocks(style.content, style.features, family.blocks(model))
    if blocks.strip().lower() not in ("", "auto"):
        chosen = checks.chosen_blocks(blocks, family.select(model, blocks), chosen)
    masks = {name: checks.mask(name, given) for name, given in (("mask", style.mask), ("style_mask", style.style_mask))
             if given is not None and not torch.all(given >= 1)}
    if "style_mask" in masks:
        checks.style_mask(masks["style_mask"], family.token_shapes(model, [block for block in chosen if block in family.blocks(model)],
                                                                   style.features.size))
    return inject_style(model, style._replace(content=only_blocks(style.content, chosen), features=only_blocks(style.features, chosen),
                                              mask=masks.get("mask"), style_mask=masks.get("style_mask")))


def sigma_range(model: ModelPatcher, start: float, end: float) -> tuple[float, float]:
    """(highest, lowest) sigma at which to inject, of a part of the sampling as in `Style`."""
    sampling = model.get_model_object("model_sampling")
    return tuple(float(sampling.percent_to_sigma(percent)) for percent in (start, end))


def injected_sigmas(model: ModelPatcher, start: float, end: float, sigmas: torch.Tensor) -> list[float]:
    """Those of `sigmas` (N + 1,) that are evaluated and injected at."""
    highest, lowest = sigma_range(model, start, end)
    # The last is where the sampling ends, and not evaluated.
    return [sigma for sigma in sigmas[:-1].tolist() if sigma > 0 and lowest <= sigma <= highest]


def is_whole(content: Features, sigmas: torch.Tensor) -> bool:
    """Whether a sampling along `sigmas` (N + 1,) goes all the way that the content was inverted, and is no part of it."""
    top = content.sigmas[-2:][0]  # the authors' code leaves the last out
    return len(sigmas) > 1 and float(sigmas[0]) >= top and reaches_picture(content, float(sigmas[-1]))


def check_run(injection: Injection, latent_image: torch.Tensor, sampler, sigmas: torch.Tensor, masked: bool) -> bool:
    """Whether there is anything to inject; ValueError where there is not, but for a part of a `masked` sampling, whose mask is
    for the injection to mind.
    """
    injected = [injected_sigmas(injection.model, style.start, style.end, sigmas) for style in injection.styles]
    whole = is_whole(injection.styles[0].content, sigmas)
    for style, wanted in zip(injection.styles, injected):
        if whole or not masked and not any(injected):
            checks.some_sigmas(wanted, len(sigmas) - 1, style.start, style.end)
        checks.sampled_size(tuple(latent_image.shape[-2:]), style.content.size)
        if style.mask is not None:
            checks.mask_batch("mask", len(style.mask), len(latent_image))
        for name, features in (("content", style.content), ("style", style.features)):
            checks.sampled_batch(name, features.batch, len(latent_image))
            checks.same_solver(features, getattr(sampler, "sampler_function", None) is sample_fireflow)
            for sigma in wanted:
                nearest_step(features, sigma)
    return any(injected) or not masked


def place_styles(model: ModelPatcher, positions: Positions) -> ModelPatcher:
    """A clone of MODEL that sees styles so; ValueError for one that has no positions to change."""
    if family_of(model).embedding(model) is None:
        raise ValueError("StyleID Positions changes the rotary positions of a transformer (Flux, Qwen-Image, Z-Image, Krea 2), "
                         f"and a {type(model.model.diffusion_model).__name__} has none. Remove or bypass the node.")
    m = model.clone()
    m.model_options["transformer_options"][POSITIONS] = positions
    return m
