"""Sampling runs on a ComfyUI MODEL: schedules, inversions and the sampling without added noise."""

from contextlib import nullcontext
from itertools import accumulate

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.ddim import sample_ddim, sample_ddim_inversion, sample_fireflow
from ...styleid_core.paths import Diffusion, Flow
from ...styleid_core.schedules import Schedule, by_method, check_falling, ddim_schedule, last_steps, official_schedule, refined
from . import checks, logger
from .compilation import call, own_graphs
from .families import family_of
from .memory import fits_in_one_batch, make_room
from .origin import origin_of
from .recording import bare, record, requested_capture

# "ddim" goes along ComfyUI's scheduler ddim_uniform, and any other scheduler may take its place.
SCHEDULES = ["official", "ddim", *(name for name in comfy.samplers.SCHEDULER_NAMES if name != "ddim_uniform")]


def make_schedule(model: ModelPatcher, name: str, steps: int, denoise: float = 1.0, refine: int = 0,
                  method: str = "ddim") -> Schedule:
    """Sigmas of one of SCHEDULES on the noise schedule of MODEL; with `denoise` below 1 the last `steps` of steps / denoise; `refine` as
    in `refined`, `method` as in `by_method`.

    Along a flow, where the authors' code has no grid, official is ComfyUI's scheduler simple.

    ValueError for a model of no family, or whose path from picture to noise cannot be inverted.
    """
    path = path_of(model)
    total = int(steps / denoise)
    model_sampling = model.get_model_object("model_sampling")
    if name == "official" and isinstance(path, Diffusion):
        schedule = official_schedule(model_sampling.sigmas.cpu(), total)
    else:
        scheduler = {"ddim": "ddim_uniform", "official": "simple"}.get(name, name)
        sampling = comfy.samplers.calculate_sigmas(model_sampling, scheduler, total).cpu()
        schedule = ddim_schedule(sampling.clamp(max=path.most))
        check_falling(schedule.sampling, name, total)
    if len(schedule.evaluated) != total:
        logger.warning("The schedule %s has no grid of %d steps on this model, and takes one of %d.", name, total, len(schedule.evaluated))
    if method == "fireflow" and not isinstance(path, Flow):
        raise ValueError("The inversion fireflow is for flow models (Flux, Qwen-Image, Z-Image). Take ddim.")
    schedule = by_method(refined(schedule, refine, float(model_sampling.percent_to_sigma(0.75))), method)
    return schedule if denoise == 1 else last_steps(schedule, steps)


def path_of(model: ModelPatcher) -> Diffusion | Flow:
    return family_of(model).path(model)


def carried(model: ModelPatcher, samples: torch.Tensor, start, end) -> torch.Tensor:
    """A LATENT's samples from sigma `start` to sigma `end`, see `styleid_core.paths`, in the scale that the model sees."""
    latent_format = model.get_model_object("latent_format")  # until MODEL is loaded, the network has that of the last
    return latent_format.process_out(path_of(model).carried(latent_format.process_in(samples), start, end))


def progress(model: ModelPatcher, *steps: int) -> list:
    """A callback for each of several sampling runs of so many steps, all with one progress bar and live previews."""
    total = sum(steps)
    callback = latent_preview.prepare_callback(model, total)

    def starting_at(start):
        return lambda step, x0, x, _: callback(start + step, x0, x, total)

    return [starting_at(start) for start in accumulate((0, *steps[:-1]))]


class GuiderBelow(comfy.samplers.CFGGuider):
    """Classifier-free guidance from the sigma `limit` down."""
    limit = float("inf")

    def predict_noise(self, x, timestep, model_options, seed=None):
        # Without guidance the host need not wait to see the sigma. Another node may set cfg where there is nothing to compare with.
        cfg = self.cfg if self.cfg != 1 and "negative" in self.conds and timestep[0] <= self.limit else 1.0
        return comfy.samplers.sampling_function(self.inner_model, x, timestep, self.conds.get("negative"), self.conds["positive"],
                                                cfg, model_options=model_options, seed=seed)


def run_sampler(model: ModelPatcher, positive, samples: torch.Tensor, sampler, sigmas: torch.Tensor, callback, negative=None,
                cfg: float = 1.0, cfg_limit: float = float("inf")) -> torch.Tensor:
    """Sample from x = `samples` (B, C, H, W) at sigmas[0] without adding noise; at cfg 1, and above the sigma `cfg_limit`, `negative`
    is not evaluated.
    """
    guider = GuiderBelow(model)
    guider.inner_set_conds({"positive": positive} if negative is None else {"positive": positive, "negative": negative})
    guider.set_cfg(cfg)
    guider.limit = cfg_limit
    output = guider.sample(torch.zeros_like(samples), samples, sampler, sigmas, callback=callback,
                           disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
    checks.prediction(output)
    return output.to(comfy.model_management.intermediate_device())


def check_sampled(model: ModelPatcher, name: str, conditioning: list, sigmas: torch.Tensor):
    """ValueError for a CONDITIONING that is not evaluated for the whole picture at each of `sigmas`."""
    checks.sampled_with(name, checks.entries_of(conditioning), sigmas.tolist(), model.get_model_object("model_sampling").percent_to_sigma)


def check_inverted(model: ModelPatcher, name: str, conditioning: list, sigmas: torch.Tensor):
    """The same for an inversion, which follows one prediction."""
    checks.inverted_with(name, checks.entries_of(conditioning), sigmas.tolist(), model.get_model_object("model_sampling").percent_to_sigma)


def check_channels(model: ModelPatcher, samples: torch.Tensor, name: str):
    latent_format = model.get_model_object("latent_format")
    checks.model_channels(latent_format.latent_channels, latent_format.latent_dimensions == 3, samples, name)


def inverter(model: ModelPatcher, schedule: Schedule) -> comfy.samplers.KSAMPLER:
    """What runs an inversion of the method that `schedule` names."""
    if schedule.method == "fireflow":
        return comfy.samplers.KSAMPLER(sample_fireflow)
    return comfy.samplers.KSAMPLER(sample_ddim_inversion, {"evaluated": schedule.evaluated, "path": path_of(model),
                                                           "refine": schedule.refine})


def sampler_of(schedule: Schedule) -> comfy.samplers.KSAMPLER:
    """What samples along the path of such an inversion."""
    return comfy.samplers.KSAMPLER(sample_fireflow if schedule.method == "fireflow" else sample_ddim)


def invert(model: ModelPatcher, positive, latents: list[torch.Tensor], schedule: Schedule, callback) -> list[tuple]:
    """[(noise to sample from at schedule.sampling[0], features of the blocks that Capture Self-Attention asked for)] of each of `latents`
    (B, C, H, W), which are inverted as one batch.
    """
    steps, samples = len(schedule.evaluated), torch.cat(latents)
    rounds = [each.rounds for each in schedule.refine] or [int(schedule.method == "fireflow"), *[0] * (steps - 1)]
    m, recorder = record(model, latents, make_room(model, requested_capture(model), list(samples.shape), steps), rounds)
    sampler = inverter(model, schedule)
    start = carried(model, samples, torch.zeros(()), schedule.inversion[0])
    with own_graphs(m.model_options, m.wrappers) if recorder.request.blocks else nullcontext(call) as recorder.call:
        x = run_sampler(m, recorder.family.inversion_prompt(model, positive), start, sampler, schedule.inversion, callback)
    noise = carried(model, x, schedule.inversion[-1], schedule.sampling[0])
    return list(zip(noise.split([len(latent) for latent in latents]), recorder.features(steps)))


def round_trip(model: ModelPatcher, positive: list, noise: torch.Tensor, samples: torch.Tensor, schedule: Schedule, callback) -> float:
    """How far `samples` (B, C, H, W) are from what is sampled from the noise of their inversion, as a share of their norm."""
    prompt = family_of(model).inversion_prompt(model, positive)
    x = run_sampler(bare(model), prompt, noise, sampler_of(schedule), schedule.sampling, callback)
    back = carried(model, x, schedule.sampling[-1], torch.zeros(()))
    return ((back - samples).norm() / samples.norm()).item()


def invert_latent(model: ModelPatcher, latent: dict, positive: list, steps: int, schedule: str, denoise: float, refine: int,
                  inversion: str, check: bool) -> tuple:
    """(LATENT of the noise, Features, sigmas (N + 1,) to sample with), as DDIM Invert says."""
    samples = checks.picture(latent, "input")
    check_channels(model, samples, "input")
    plan = make_schedule(model, schedule, steps, denoise, refine, inversion)
    check_inverted(model, "positive", positive, plan.evaluated)
    callback, on_return = progress(model, len(plan.evaluated), (len(plan.sampling) - 1) * check)
    [(noise, features)] = invert(model, positive, [samples], plan, callback)
    if check:
        logger.info("The round trip of %d steps ends %.2f%% away from the latent.", len(plan.evaluated),
                    100 * round_trip(model, positive, noise, samples, plan, on_return))
    output = latent | {"samples": noise}
    if "noise_mask" in latent and not features.blocks:
        # Only Inject Style K/V knows what is to be seen outside the mask; a bare sampler would show this noise there.
        checks.unused_mask(latent, "input")
        del output["noise_mask"]
    return output, features._replace(origin=origin_of(model, positive, schedule, steps, denoise, refine, inversion)), plan.sampling


def in_batches(model: ModelPatcher, latents: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """`latents` (B, C, H, W) as one batch to invert, or as one each when their sizes differ or memory is short."""
    alike = len({latent.shape[1:] for latent in latents}) == 1
    together = alike and fits_in_one_batch(model, [sum(map(len, latents)), *latents[0].shape[1:]])
    return [latents] if together else [[latent] for latent in latents]
