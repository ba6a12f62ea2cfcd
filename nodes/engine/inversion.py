"""Inversions of a ComfyUI MODEL: their schedules, what they record, and how far a round trip ends from the picture."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import NamedTuple

import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.ddim import sample_ddim_inversion
from ...styleid_core.features import Features
from ...styleid_core.paths import Diffusion, Flow
from ...styleid_core.schedules import (
    Schedule,
    by_method,
    check_falling,
    ddim_schedule,
    last_steps,
    official_schedule,
    refined,
)
from ...styleid_core.settings import InversionSettings
from . import checks, logger
from .capture import requested_capture
from .compilation import execute, own_graphs
from .families import family_of
from .memory import fits_in_one_batch, make_room
from .origin import origin_of
from .recording import bare, record
from .reuse import recall, recipe_of, remember
from .sampling import Guidance, carried, check_channels, path_of, progress, run_sampler, sampler_of

# "ddim" goes along ComfyUI's scheduler ddim_uniform, and any other scheduler may take its place.
SCHEDULES = ["official", "ddim", *(name for name in comfy.samplers.SCHEDULER_NAMES if name != "ddim_uniform")]


class Inverted(NamedTuple):
    """noise (B, C, H, W) to sample from, and the features of the blocks that Capture Self-Attention asked for."""
    noise: torch.Tensor
    features: Features


class ToInvert(NamedTuple):
    """A latent (B, C, H, W), and the CONDITIONING to invert it with."""
    latent: torch.Tensor
    positive: list


def make_schedule(model: ModelPatcher, settings: InversionSettings) -> Schedule:
    """Sigmas on the noise schedule of MODEL.

    For flow models, of which the authors' code has no grid, official is ComfyUI's scheduler simple.

    ValueError for a model of no family, or whose path from picture to noise cannot be inverted.
    """
    name, total, path = settings.schedule, settings.total, path_of(model)
    model_sampling = model.get_model_object("model_sampling")
    if name == "official" and isinstance(path, Diffusion):
        schedule = official_schedule(model_sampling.sigmas.cpu(), total)
    else:
        scheduler = {"ddim": "ddim_uniform", "official": "simple"}.get(name, name)
        sampling = comfy.samplers.calculate_sigmas(model_sampling, scheduler, total).cpu()
        schedule = ddim_schedule(sampling.clamp(max=path.most))
        check_falling(schedule.sampling, name, total)
    if len(schedule.evaluated) != total:
        logger.warning("The schedule %s has no grid of %d steps on this model, and takes one of %d.", name, total,
                       len(schedule.evaluated))
    if settings.method == "fireflow" and not isinstance(path, Flow):
        raise ValueError("The inversion fireflow is for flow models (Flux, Qwen-Image, Z-Image). Take ddim.")
    schedule = refined(schedule, settings.refine, float(model_sampling.percent_to_sigma(0.75)))
    schedule = by_method(schedule, settings.method)
    return schedule if settings.denoise == 1 else last_steps(schedule, settings.steps)


def check_inverted(model: ModelPatcher, name: str, conditioning: list, sigmas: torch.Tensor):
    """ValueError unless one prompt applies to the whole picture at each of `sigmas`."""
    percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    checks.require_one_prompt(name, checks.entries_of(conditioning), sigmas.tolist(), percent_to_sigma)


def inverter(model: ModelPatcher, schedule: Schedule) -> comfy.samplers.KSAMPLER:
    """The sampler that inverts by the method of `schedule`."""
    if schedule.method == "fireflow":
        return sampler_of(schedule.method)
    return comfy.samplers.KSAMPLER(sample_ddim_inversion, {"evaluated": schedule.evaluated, "path": path_of(model),
                                                           "refine": schedule.refine})


def invert(model: ModelPatcher, positive: list, latents: list[torch.Tensor], schedule: Schedule,
           callback) -> list[Inverted]:
    """Inverts `latents` (B, C, H, W) as one batch: one Inverted for each."""
    steps, samples = len(schedule.evaluated), torch.cat(latents)
    rounds = [each.rounds for each in schedule.refine] or [int(schedule.method == "fireflow"), *[0] * (steps - 1)]
    m, recorder = record(model, latents, make_room(model, requested_capture(model), list(samples.shape), steps), rounds)
    guider = Guidance(m, recorder.family.inversion_prompt(model, positive))
    start = carried(model, samples, torch.zeros(()), schedule.inversion[0])
    graphs = own_graphs(m.model_options, m.wrappers) if recorder.request.blocks else nullcontext(execute)
    with graphs as recorder.execute:
        x = run_sampler(guider, start, inverter(model, schedule), schedule.inversion, callback)
    noise = carried(model, x, schedule.inversion[-1], schedule.sampling[0])
    return list(map(Inverted, noise.split([len(latent) for latent in latents]), recorder.features(steps)))


def round_trip(model: ModelPatcher, positive: list, noise: torch.Tensor, samples: torch.Tensor, schedule: Schedule,
               callback) -> float:
    """Samples from `noise` again: the distance to `samples` (B, C, H, W), as a share of their norm."""
    guider = Guidance(bare(model), family_of(model).inversion_prompt(model, positive))
    x = run_sampler(guider, noise, sampler_of(schedule.method), schedule.sampling, callback)
    back = carried(model, x, schedule.sampling[-1], torch.zeros(()))
    return ((back - samples).norm() / samples.norm()).item()


def invert_latent(model: ModelPatcher, latent: dict, positive: list, settings: InversionSettings, check: bool) -> tuple:
    """(LATENT of the noise, Features, sigmas (N + 1,) to sample with), as DDIM Invert says."""
    samples = checks.require_picture(latent, "input")
    check_channels(model, samples, "input")
    schedule = make_schedule(model, settings)
    check_inverted(model, "positive", positive, schedule.evaluated)
    callback, on_return = progress(model, len(schedule.evaluated), (len(schedule.sampling) - 1) * check)
    [(noise, features)] = invert(model, positive, [samples], schedule, callback)
    if check:
        logger.info("The round trip of %d steps ends %.2f%% away from the latent.", len(schedule.evaluated),
                    100 * round_trip(model, positive, noise, samples, schedule, on_return))
    output = latent | {"samples": noise}
    if "noise_mask" in latent and not features.blocks:
        # Without Inject Style K/V a sampler would leave noise outside the mask.
        checks.warn_unused_mask(latent, "input")
        del output["noise_mask"]
    return output, features._replace(origin=origin_of(model, positive, settings)), schedule.sampling


class Inversions:
    """Holds the inversions of one transfer by MODEL. Recalls those that are remembered. Makes the others with
    `recording`, a clone of MODEL that may ask for features, and remembers them.
    """
    def __init__(self, model: ModelPatcher, recording: ModelPatcher, settings: InversionSettings):
        self.model, self.recording, self.settings = model, recording, settings
        self.request, self.schedule = requested_capture(recording), make_schedule(model, settings)

    def recipe(self, positive: list) -> tuple:
        return recipe_of(self.model, positive, self.settings, self.request.dtype, self.request.device)

    def recalled(self, wanted: ToInvert) -> Inverted | None:
        found = recall(wanted.latent, self.recipe(wanted.positive), self.request.blocks)
        return found and Inverted(*found)

    def batches(self, wanted: list[ToInvert]) -> list[list[ToInvert]]:
        """What is inverted at once: all, where sizes and prompts are alike and memory allows, or one each."""
        alike = len({each.latent.shape[1:] for each in wanted}) == len({id(each.positive) for each in wanted}) == 1
        count = sum(len(each.latent) for each in wanted)
        together = alike and fits_in_one_batch(self.model, [count, *wanted[0].latent.shape[1:]])
        return [wanted] if together else [[each] for each in wanted]

    def made(self, batches: list[list[ToInvert]], callbacks: list) -> Iterator[Inverted]:
        """Inverts batch by batch: one Inverted for each picture, in order, remembered as soon as its batch is done."""
        for batch, callback in zip(batches, callbacks):
            positive = batch[0].positive
            found = invert(self.recording, positive, [each.latent for each in batch], self.schedule, callback)
            for each, inverted in zip(batch, found):
                remember(each.latent, self.recipe(positive), positive, *inverted)
                yield inverted
