"""The whole of StyleID on latents: both inversions, the start re-colored, and the sampling with the style's
self-attention.
"""

from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.adain import adain
from ...styleid_core.features import Features, only_blocks
from ...styleid_core.settings import InversionSettings
from ...styleid_core.style import Style
from . import checks
from .capture import request_capture, request_nothing
from .conditioning import for_style
from .injection import check_features, inject_style, injected_sigmas
from .inversion import Inversions, Inverted, ToInvert, check_inverted
from .options import Options, check_options
from .presets import Look
from .sampling import (
    Guidance,
    carried,
    check_channels,
    check_sampled,
    keep_outside,
    path_of,
    progress,
    run_sampler,
    sampler_of,
)


class Pictures(NamedTuple):
    """LATENTs of content and style. If `style_features` are given, `style` is the noise of their inversion."""
    content: dict
    style: dict
    style_features: Features | None = None


def stylize(model: ModelPatcher, pictures: Pictures, positive: list, settings: InversionSettings, look: Look,
            options: Options) -> dict:
    """The content LATENT in the style of `pictures.style`. With no blocks only the colors change.

    All inputs are checked before the first model call, memory before each inversion.
    """
    check_options(options)
    content, style = to_invert(model, pictures, positive, options)
    recording = request_nothing(model)
    if look.blocks.strip():
        recording = request_capture(model, look.blocks, options.feature_dtype, options.feature_device)
    inversions = Inversions(model, recording, settings)
    check_prompts(inversions, content, style, positive, options)
    given = given_style(inversions, pictures, look)

    recalled = [inversions.recalled(content), given or inversions.recalled(style)]
    batches = inversions.batches([each for each, found in zip((content, style), recalled) if found is None])
    sampling = inversions.schedule.sampling
    inverting = [len(inversions.schedule.evaluated)] * len(batches)
    *on_inversion, on_sampling = progress(model, *inverting, len(sampling) - 1)
    made = inversions.made(batches, on_inversion)
    inverted_content, inverted_style = (found or next(made) for found in recalled)  # in the order of `batches`

    start = adain(inverted_content.noise, inverted_style.noise, look.color_strength)
    sampled = model
    if inversions.request.blocks:
        sampled = inject_style(model, Style(
            content=inverted_content.features, features=inverted_style.features, gamma=look.gamma, tau=look.temperature,
            inject_into=options.inject_into, start=options.start_percent, end=options.end_percent,
            weight=look.weight, auto_tau=options.auto_temperature, gamma_curve=options.gamma_curve,
            tau_curve=options.temperature_curve, weight_curve=options.weight_curve))
    guider = Guidance(sampled, positive, options.negative, options.cfg, path_of(model).sigma(options.cfg_max_sigma))
    x = run_sampler(guider, start, sampler_of(settings.method), sampling, on_sampling)
    result = carried(model, x, sampling[-1], torch.zeros(()))
    if "noise_mask" in pictures.content:
        result = keep_outside(pictures.content["noise_mask"], result, content.latent)
    return pictures.content | {"samples": result}


def to_invert(model: ModelPatcher, pictures: Pictures, positive: list, options: Options) -> tuple[ToInvert, ToInvert]:
    """Content and style, each with the prompt to invert it with."""
    z_content, z_style = checks.require_pictures(pictures.content, pictures.style)
    check_channels(model, z_content, "content")
    check_channels(model, z_style, "style")
    checks.warn_unused_mask(pictures.style, "style")
    name, inverted_with = inversion_prompt(positive, options)
    style_positive = options.style_positive
    if pictures.style_features is not None:
        checks.warn_unused_conditioning(style_positive)
    elif style_positive is None:
        style_positive = for_style(name, inverted_with, z_content, z_style)
    return ToInvert(z_content, inverted_with), ToInvert(z_style, style_positive)


def inversion_prompt(positive: list, options: Options) -> tuple[str, list]:
    """The input's name, for errors, and the CONDITIONING that inverts the content."""
    given = options.inversion_positive
    return ("positive", positive) if given is None else ("inversion_positive", given)


def check_prompts(inversions: Inversions, content: ToInvert, style: ToInvert, positive: list, options: Options):
    """ValueError for a conditioning that cannot be followed, or a sampling in which nothing is injected."""
    model, schedule = inversions.model, inversions.schedule
    check_inverted(model, inversion_prompt(positive, options)[0], content.positive, schedule.evaluated)
    if options.style_positive is not None:
        check_inverted(model, "style_positive", style.positive, schedule.evaluated)
    sigmas = schedule.sampling[:-1]
    check_sampled(model, "positive", positive, sigmas)
    if options.cfg != 1:
        guided = sigmas[sigmas <= path_of(model).sigma(options.cfg_max_sigma)]
        check_sampled(model, "negative", options.negative, guided)
    if inversions.request.blocks:
        span = options.start_percent, options.end_percent
        checks.require_some_sigmas(injected_sigmas(model, *span, schedule.sampling), len(sigmas), *span)


def given_style(inversions: Inversions, pictures: Pictures, look: Look) -> Inverted | None:
    """The style that is inverted already, if any; ValueError for one of other settings or blocks."""
    features = pictures.style_features
    if features is None:
        return None
    check_features("style", features, inversions.model)
    checks.require_inverted_style(pictures.style["samples"], features, inversions.settings)
    checks.require_chosen_blocks(look.blocks, inversions.request.blocks, features.blocks)
    return Inverted(pictures.style["samples"], only_blocks(features, inversions.request.blocks))
