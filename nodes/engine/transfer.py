"""The whole of StyleID on latents: both inversions, the start re-colored, and the sampling with the style's self-attention."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sample import prepare_noise

from ...styleid_core.adain import adain
from ...styleid_core.curves import Curve
from ...styleid_core.features import Features, only_blocks
from ...styleid_core.frequencies import with_other_frequencies
from ...styleid_core.masks import on_grid
from ...styleid_core.schedules import Schedule
from ...styleid_core.style import Style
from . import checks
from .families import family_of
from .families.positions import POSITIONS, Positions
from .injection import inject_style, injected_sigmas, keep_outside
from .recording import request_capture, requested_capture
from .reuse import recall, recipe_of, remember
from .runs import (
    carried,
    check_channels,
    check_inverted,
    check_sampled,
    in_batches,
    invert,
    make_schedule,
    path_of,
    progress,
    run_sampler,
    sampler_of,
)
from .sources import READERS

CFG_MAX_SIGMA = 5.42  # for data of unit deviation: Kynkäänniemi et al. 2024, arXiv 2404.07724, for SDXL


class Options(NamedTuple):
    """What few people change.

    negative, cfg        classifier-free guidance of the sampling, from the noise level `cfg_max_sigma` (for data of unit deviation) down:
                         above it, guidance would burn the colors that AdaIN set
    inversion_positive   CONDITIONING of both inversions; None: that of the sampling
    denoise, refine, inversion     see `make_schedule`
    inject_into, start_percent, end_percent    as in `Style`
    feature_dtype, feature_device              as in `CaptureRequest`
    auto_temperature, gamma_curve, temperature_curve    `Style.auto_tau`, `gamma_curve`, `tau_curve`
    """
    negative: list | None = None
    cfg: float = 1.0
    cfg_max_sigma: float = CFG_MAX_SIGMA
    inversion_positive: list | None = None
    denoise: float = 1.0
    inject_into: str = "both"
    start_percent: float = 0.0
    end_percent: float = 1.0
    feature_dtype: str = "auto"
    feature_device: str = "auto"
    auto_temperature: bool = False
    gamma_curve: Curve | None = None
    temperature_curve: Curve | None = None
    refine: int = 0
    inversion: str = "ddim"

    def __repr__(self) -> str:
        """Short: with every error ComfyUI keeps the text of a node's inputs in its history, and prompts are tensors."""
        return "Options({})".format(", ".join(f"{name}={value}" for name, value in self._asdict().items() if not isinstance(value, list)))


def check_options(options: Options) -> Options:
    checks.span(options.start_percent, options.end_percent)
    checks.guidance(options.cfg, options.negative, options.inject_into)
    return options


def recolor(content: dict, style: dict, strength: float, mask: torch.Tensor | None = None,
            style_mask: torch.Tensor | None = None) -> dict:
    """Latent AdaIN: the content LATENT with the channel means and deviations of the other, over what the MASKs weigh."""
    checks.unused_mask(style, "style")
    z_content, z_style = checks.pictures(content, style)
    checks.same_channels(z_content, z_style)
    weights = [None if given is None else latent_mask(name, given, z) for name, given, z in (
        ("mask", mask, z_content), ("style_mask", style_mask, z_style))]
    if style_mask is not None:
        checks.measured(weights[1])
    return content | {"samples": adain(z_content, z_style, strength, *weights)}


def start_frequencies(noise: dict, inner: float, outer: float, keep: float, seed: int) -> dict:
    """The LATENT of an inversion with new noise in a band of its frequencies, as StyleID Start Frequencies says."""
    z = checks.picture(noise, "noise")
    picture = z.flatten(1, 2) if z.ndim == 5 else z
    return noise | {"samples": with_other_frequencies(picture, prepare_noise(picture, seed).to(z), inner, outer, keep).view_as(z)}


def place_styles(model: ModelPatcher, positions: Positions) -> ModelPatcher:
    """A clone of MODEL that sees styles so; ValueError for one that has no positions to change."""
    if family_of(model).embedding(model) is None:
        raise ValueError("StyleID Positions changes the rotary positions of a transformer (Flux, Qwen-Image, Z-Image, Krea 2), "
                         f"and a {type(model.model.diffusion_model).__name__} has none. Remove or bypass the node.")
    m = model.clone()
    m.model_options["transformer_options"][POSITIONS] = positions
    return m


def latent_mask(name: str, mask: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
    """A MASK over the picture on the grid of its latent: (B or 1, 1, ..., h, w)."""
    mask = checks.mask(name, mask)
    checks.mask_batch(name, len(mask), len(samples))
    return on_grid(mask, tuple(samples.shape[-2:])).view(len(mask), *(1,) * (samples.ndim - 3), *samples.shape[-2:]).to(samples)


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


def invert_all(model: ModelPatcher, positive: list, batches: list[list[torch.Tensor]], plan: Schedule, recipe: tuple,
               callbacks: list) -> Iterator[tuple]:
    """What `invert` gives for each latent of the batches; each batch is remembered as soon as it is inverted."""
    for batch, callback in zip(batches, callbacks):
        for latent, (noise, features) in zip(batch, invert(model, positive, batch, plan, callback)):
            remember(latent, recipe, positive, noise, features)
            yield noise, features


def stylize(model: ModelPatcher, content: dict, style: dict, positive: list, steps: int, gamma: float, temperature: float,
            color_strength: float, blocks: str, schedule: str, options: Options, style_features: Features | None = None) -> dict:
    """The content LATENT in the style of the other, as StyleID Sampler says. With no `blocks` only the colors change; with `style_features`
    the style is the noise of the same inversion.

    Everything that can be refused is, before the first model call.
    """
    check_options(options)
    z_content, z_style = checks.pictures(content, style)
    for name, samples in (("content", z_content), ("style", z_style)):
        check_channels(model, samples, name)
    checks.unused_mask(style, "style")
    recording = request_capture(model, blocks, options.feature_dtype, options.feature_device) if blocks.strip() else model
    plan = make_schedule(model, schedule, steps, options.denoise, options.refine, options.inversion)
    cfg_limit = path_of(model).sigma(options.cfg_max_sigma)
    given = options.inversion_positive
    name, inverted_with = ("positive", positive) if given is None else ("inversion_positive", given)
    sigmas = plan.sampling[:-1]
    check_inverted(model, name, inverted_with, plan.evaluated)
    check_sampled(model, "positive", positive, sigmas)
    if options.cfg != 1:
        check_sampled(model, "negative", options.negative, sigmas[sigmas <= cfg_limit])
    if recording is not model:
        span = options.start_percent, options.end_percent
        checks.some_sigmas(injected_sigmas(model, *span, plan.sampling), len(sigmas), *span)

    request = requested_capture(recording)
    if style_features is not None:
        check_features("style", style_features, model)
        checks.inverted_style(z_style, style_features, schedule, steps, options.denoise, options.refine,
                              options.inversion)
        checks.chosen_blocks(blocks, request.blocks, style_features.blocks)
    recipe = recipe_of(model, inverted_with, schedule, steps, options.denoise, options.refine, options.inversion, request.dtype,
                       request.device)
    inverted = [recall(z_content, recipe, request.blocks), recall(z_style, recipe, request.blocks) if style_features is None else
                (z_style, only_blocks(style_features, request.blocks))]
    batches = in_batches(model, [z for z, known in zip((z_content, z_style), inverted) if known is None])
    *on_inversion, on_sampling = progress(model, *[len(plan.evaluated)] * len(batches), len(plan.sampling) - 1)
    made = invert_all(recording, inverted_with, batches, plan, recipe, on_inversion)
    (noise, features), (style_noise, style_features) = (known or next(made) for known in inverted)
    start = adain(noise, style_noise, color_strength)
    sampled = model if recording is model else inject_style(model, Style(
        features, style_features, gamma, temperature, options.inject_into, options.start_percent, options.end_percent,
        auto_tau=options.auto_temperature, gamma_curve=options.gamma_curve, tau_curve=options.temperature_curve))
    x = run_sampler(sampled, positive, start, sampler_of(plan), plan.sampling, on_sampling, options.negative, options.cfg, cfg_limit)
    result = carried(model, x, plan.sampling[-1], torch.zeros(()))
    if "noise_mask" in content:
        result = keep_outside(content["noise_mask"], result, z_content)
    return content | {"samples": result}
