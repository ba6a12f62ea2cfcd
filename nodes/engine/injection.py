"""The injection into any sampling run of a MODEL, by patches and wrappers that the run owns."""

from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ...styleid_core.ddim import sample_fireflow
from ...styleid_core.features import Features, nearest_step, only_blocks, reaches_picture
from ...styleid_core.masks import is_whole
from ...styleid_core.style import Style
from . import KEY, checks, host, logger
from .compilation import execute, own_graphs
from .families import family_of
from .families.positions import POSITIONS, Positions
from .run import Run, sigma_range
from .samplers import check_sampler
from .sampling import keep_outside
from .sources import check_source


def inject_style(model: ModelPatcher, style: Style) -> ModelPatcher:
    """A clone of MODEL that injects `style` too, beside the styles that it injects already, into any sampler's runs.

    With a noise mask the whole picture is sampled, and the content's latent put back outside the mask at the end. The
    run's own copy of the model options carries the patch: nothing stays on the model, however the run ends.
    """
    m = model.clone()
    before = [each for wrapper in m.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY) for each in wrapper.styles]
    m.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)
    m.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, SampledWith([*before, style]))
    return m


class SampledWith:
    """The wrapper of ComfyUI's outer_sample that injects `styles` into the run."""

    def __init__(self, styles: list[Style]):
        self.styles = styles  # a list: torch.compile takes tensors in a tuple for inputs of the model

    def __call__(self, executor, noise, latent_image, sampler, sigmas,  # noqa: PLR0913  ComfyUI's
                 denoise_mask=None, callback=None, *args, **kwargs):
        guider, content = executor.class_obj, self.styles[0].content
        model, options = guider.model_patcher, guider.model_options
        # No higher than can be sampled; and a copy, as uni_pc writes into its sigmas, which ComfyUI may keep.
        sigmas = sigmas.clamp(max=family_of(model).path(model).most)
        check_sampler(model, getattr(guider, "cfg", 1.0), sampler, sigmas)
        if torch.count_nonzero(noise):
            checks.refuse_fresh_noise(latent_image, content, float(sigmas[0]))
        for name, entries in guider.conds.items():
            checks.refuse_areas(name, entries)
        if denoise_mask is not None and host.MASK_FUNCTION in options:
            logger.warning("Differential Diffusion has no effect beside the injection: the mask is blended in once, at "
                           "the end.")

        run = Run(model, self.styles, len(latent_image), host.sides_of(guider.conds))
        must_inject = check_run(run, latent_image, sampler, sigmas, denoise_mask is not None)
        run.family.inject(model, options[host.TRANSFORMER_OPTIONS], run.blocks, content.size)
        add_wrapper_with_key(run.family.WRAPPED, KEY, run.model_call, options, is_model_options=True)
        if callback is not None and denoise_mask is not None:
            callback = showing(callback, denoise_mask, content, model)
        with own_graphs(options, options[host.TRANSFORMER_OPTIONS][host.WRAPPERS]) as run.execute:
            run.compiled = run.execute is not execute
            output = executor(noise, latent_image, sampler, sigmas, None, callback, *args, **kwargs)
        run.finish()
        checks.require_prediction(output)
        if must_inject:
            checks.require_some_injected(run.tally.blocks, len(run.tally.steps), len(sigmas),
                                         [style.inject_into for style in self.styles])
        run.tally.tell(len(self.styles))
        return output if denoise_mask is None else masked(denoise_mask, output, content, float(sigmas[-1]))


def showing(callback: Callable, mask: torch.Tensor, content: Features, model: ModelPatcher) -> Callable:
    """`callback`, whose previews show the content outside the mask, as the result will."""
    original = model.get_model_object("latent_format").process_in(content.latent)
    return lambda step, x0, x, total: callback(step, keep_outside(mask, x0, original), x, total)


def masked(mask: torch.Tensor, output: torch.Tensor, content: Features, sigma: float) -> torch.Tensor:
    """`output` with the noise mask, if its sampling ended at the picture and not in the noise."""
    if reaches_picture(content, sigma):
        return keep_outside(mask, output, content.latent)
    logger.info("The sampling ends in the noise, and its mask waits for the end: sample the rest with a model that has "
                "a style too.")
    return output


def check_run(run: Run, latent_image: torch.Tensor, sampler, sigmas: torch.Tensor, has_mask: bool) -> bool:
    """Whether a run that injects nothing is an error; ValueError for one that cannot be injected.

    A part of a sampling that `has_mask` may inject nothing, as its mask needs the injection.
    """
    injected = [injected_sigmas(run.model, style.start, style.end, sigmas) for style in run.styles]
    whole = covers_inversion(run.styles[0].content, sigmas)
    for style, wanted in zip(run.styles, injected):
        if whole or not (has_mask or any(injected)):
            checks.require_some_sigmas(wanted, len(sigmas) - 1, style.start, style.end)
        checks.require_sampled_size(tuple(latent_image.shape[-2:]), style.content.size)
        if style.mask is not None:
            checks.require_mask_batch("mask", len(style.mask), len(latent_image))
        for name, features in (("content", style.content), ("style", style.features)):
            checks.require_sampled_batch(name, features.batch, len(latent_image))
            checks.require_same_solver(features, getattr(sampler, "sampler_function", None) is sample_fireflow)
            for sigma in wanted:
                nearest_step(features, sigma)
    return any(injected) or not has_mask


def injected_sigmas(model: ModelPatcher, start: float, end: float, sigmas: torch.Tensor) -> list[float]:
    """Those of `sigmas` (N + 1,) at which the model is called between `start` and `end`."""
    highest, lowest = sigma_range(model, start, end)
    # The last is where the sampling ends, and not evaluated.
    return [sigma for sigma in sigmas[:-1].tolist() if sigma > 0 and lowest <= sigma <= highest]


def covers_inversion(content: Features, sigmas: torch.Tensor) -> bool:
    """Whether a sampling along `sigmas` (N + 1,) covers the content's whole inversion."""
    top = content.sigmas[-2:][0]  # the second highest: sampling by the authors' code skips the first step
    return len(sigmas) > 1 and float(sigmas[0]) >= top and reaches_picture(content, float(sigmas[-1]))


def check_features(name: str, features: Features, model: ModelPatcher):
    """ValueError for content or style features, by `name`, that are empty or that MODEL cannot sample with."""
    checks.require_captured(f"{name}_", features)
    check_source(name, features, model)


def inject_captured(model: ModelPatcher, blocks: str, style: Style) -> ModelPatcher:
    """A clone of MODEL that injects captured features: `blocks` is "auto" or empty for all that both have.

    ValueError where nothing was captured, or not in a named block, or in none that both and MODEL have.
    """
    checks.require_span(style.start, style.end)
    for name, features in (("content", style.content), ("style", style.features)):
        check_features(name, features, model)
    family = family_of(model)
    chosen = checks.require_common_blocks(style.content, style.features, family.blocks(model))
    if blocks.strip().lower() not in ("", "auto"):
        chosen = checks.require_chosen_blocks(blocks, family.select(model, blocks), chosen)
    given = {"mask": style.mask, "style_mask": style.style_mask}
    masks = {name: checks.require_mask(name, mask) for name, mask in given.items()
             if mask is not None and not is_whole(mask)}
    if "style_mask" in masks:
        of_model = [block for block in chosen if block in family.blocks(model)]
        checks.require_style_mask(masks["style_mask"], family.token_shapes(model, of_model, style.features.size))
    content, features = (only_blocks(each, chosen) for each in (style.content, style.features))
    return inject_style(model, style._replace(content=content, features=features, mask=masks.get("mask"),
                                              style_mask=masks.get("style_mask")))


def with_positions(model: ModelPatcher, positions: Positions) -> ModelPatcher:
    """A clone of MODEL with `positions` for the keys of styles; ValueError for one without rotary positions."""
    if family_of(model).embedding(model) is None:
        raise ValueError("This node changes the rotary positions of a transformer (Flux, Qwen-Image, Z-Image, Krea 2), "
                         f"and a {type(model.model.diffusion_model).__name__} has none. Remove or bypass StyleID "
                         "Positions.")
    m = model.clone()
    m.model_options[host.TRANSFORMER_OPTIONS][POSITIONS] = positions
    return m
