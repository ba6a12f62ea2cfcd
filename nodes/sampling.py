"""Latents in and out, and sampling runs on a ComfyUI MODEL."""

import math
from contextlib import nullcontext
from itertools import accumulate

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import latent_preview
import torch

from ..styleid_core.ddim import sample_ddim_inversion, vp_scale
from ..styleid_core.features import Features, split_batch
from ..styleid_core.schedules import Schedule, check_falling, ddim_schedule, last_steps, official_schedule
from .compilation import call, own_graphs
from .memory import fits_in_one_batch, make_room
from .recording import logger, record, requested_capture
from .unet import check_unet

# "ddim" goes along ComfyUI's scheduler ddim_uniform, and any other scheduler may take its place.
SCHEDULES = ["official", "ddim", *(name for name in comfy.samplers.SCHEDULER_NAMES if name != "ddim_uniform")]

GUIDED_BELOW = 5.42  # sigma, for data of unit deviation: Kynkäänniemi et al. 2024, arXiv:2404.07724, for SDXL


def make_schedule(model, name: str, steps: int, denoise: float = 1.0) -> Schedule:
    """Sigmas of one of SCHEDULES on the noise schedule of MODEL; with `denoise` below 1 the last `steps` of steps / denoise.

    ValueError for a model that is not a UNet, or is sampled by flow matching.
    """
    check_unet(model)
    total = int(steps / denoise)
    model_sampling = model.get_model_object("model_sampling")
    if isinstance(model_sampling, comfy.model_sampling.CONST):
        raise ValueError("This model is set to flow matching, whose path from picture to noise is not the one that DDIM inverts. "
                         "Remove the node that changes its sampling (ModelSamplingSD3, ModelSamplingFlux).")
    if name == "official":
        schedule = official_schedule(model_sampling.sigmas.cpu(), total)
    else:
        scheduler = "ddim_uniform" if name == "ddim" else name
        schedule = ddim_schedule(comfy.samplers.calculate_sigmas(model_sampling, scheduler, total).cpu())
        check_falling(schedule.sampling, name, total)
    schedule = schedule._replace(sigma_data=float(model_sampling.sigma_data))
    if len(schedule.evaluated) != total:
        logger.warning("The schedule %s has no grid of %d steps on this model, and takes one of %d.", name, total, len(schedule.evaluated))
    return schedule if denoise == 1 else last_steps(schedule, steps)


def check_numbers(**settings: float):
    """ValueError for a setting that is NaN or infinite, which a prompt can carry past the range of its widget."""
    for name, value in settings.items():
        if not math.isfinite(value):
            raise ValueError(f"The setting {name} is {value}, which is no number. Set it to one within its range.")


def image_latent(latent: dict, name: str) -> torch.Tensor:
    """The samples (B, C, H, W) of a LATENT that holds a picture; ValueError for another shape, NaN, only zeros, or a single value."""
    samples = latent["samples"]
    if samples.ndim != 4:
        raise ValueError(f"The {name} latent has shape {list(samples.shape)}, and that of a picture is [batch, channels, height, width]. "
                         "Connect a picture through VAE Encode; video and audio latents are not supported.")
    if not torch.isfinite(samples).all():
        raise ValueError(f"The {name} latent contains NaN or infinity, which a VAE in fp16 may produce. "
                         "Start ComfyUI with --fp32-vae, or use another VAE.")
    if not torch.count_nonzero(samples):
        raise ValueError(f"The {name} latent is empty. Connect a picture through VAE Encode.")
    if not torch.isfinite(latent.get("noise_mask", samples)).all():
        raise ValueError(f"The mask of the {name} latent contains NaN. Connect another mask, or none.")
    if samples[0, 0].numel() < 2:
        raise ValueError(f"The {name} latent is 1x1, and a single value has no deviation. Encode a larger picture.")
    return samples


def image_latents(content: dict, style: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """The samples of both LATENTs; ValueError as `image_latent`, or for batches that cannot be paired."""
    z_content, z_style = image_latent(content, "content"), image_latent(style, "style")
    if len(z_content) != len(z_style) and 1 not in (len(z_content), len(z_style)):
        raise ValueError(f"The batch has {len(z_content)} contents and {len(z_style)} styles. "
                         "Give one style for all, or as many as contents.")
    return z_content, z_style


def warn_of_mask(latent: dict, name: str):
    if "noise_mask" in latent:
        logger.warning("The mask of the %s latent is not used: the whole picture is taken.", name)


def check_channels(model, samples: torch.Tensor, name: str):
    channels = model.get_model_object("latent_format").latent_channels
    if samples.ndim != 4 or samples.shape[1] != channels:
        raise ValueError(f"The {name} latent has shape {list(samples.shape)}, and this model works on [batch, {channels}, height, width]. "
                         "Encode the picture with the VAE of the same checkpoint.")


def progress(model, *steps: int) -> list:
    """A callback for each of several sampling runs of so many steps, all with one progress bar and live previews."""
    total = sum(steps)
    callback = latent_preview.prepare_callback(model, total)

    def starting_at(start):
        return lambda step, x0, x, _: callback(start + step, x0, x, total)

    return [starting_at(start) for start in accumulate((0, *steps[:-1]))]


def rescale(model, samples: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """Multiply a LATENT's samples by `factor` in the scale that the model sees."""
    return model.model.process_latent_out(model.model.process_latent_in(samples) * factor)


class GuiderBelow(comfy.samplers.CFGGuider):
    """Classifier-free guidance from sigma GUIDED_BELOW down: above it, guidance would burn the colours that AdaIN set."""

    def predict_noise(self, x, timestep, model_options, seed=None):
        limit = GUIDED_BELOW * self.inner_model.model_sampling.sigma_data
        # Without guidance the host need not wait to see the sigma. Another node may set cfg where there is nothing to compare with.
        cfg = self.cfg if self.cfg != 1 and "negative" in self.conds and timestep[0] <= limit else 1.0
        return comfy.samplers.sampling_function(self.inner_model, x, timestep, self.conds.get("negative"), self.conds["positive"],
                                                cfg, model_options=model_options, seed=seed)


def run_sampler(model, positive, samples: torch.Tensor, sampler, sigmas: torch.Tensor, callback, negative=None, cfg: float = 1.0):
    """Sample from x = `samples` (B, C, H, W) at sigmas[0] without adding noise; at cfg 1 `negative` is not evaluated."""
    guider = GuiderBelow(model)
    guider.inner_set_conds({"positive": positive} if negative is None else {"positive": positive, "negative": negative})
    guider.set_cfg(cfg)
    output = guider.sample(torch.zeros_like(samples), samples, sampler, sigmas, callback=callback,
                           disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
    check_prediction(output)
    return output.to(comfy.model_management.intermediate_device())


def check_prediction(samples: torch.Tensor):
    """ValueError for a sampling run that ended in NaN: nobody would see it before a black picture, or blame the right node."""
    if not torch.isfinite(samples).all():
        raise ValueError("The model predicted NaN or infinity, as some do in fp16. Start ComfyUI with --force-upcast-attention or "
                         "--fp32-unet, or take another checkpoint.")


def invert(model, positive, samples: torch.Tensor, schedule: Schedule, callback) -> tuple[torch.Tensor, Features]:
    """(noise to sample from at schedule.sampling[0], features of the blocks that CaptureSelfAttention asked for)."""
    steps = len(schedule.evaluated)
    m, recorder = record(model, samples, *make_room(model, requested_capture(model), list(samples.shape), steps))
    sampler = comfy.samplers.KSAMPLER(sample_ddim_inversion, {"evaluated": schedule.evaluated, "sigma_data": schedule.sigma_data})
    start = rescale(model, samples, vp_scale(schedule.inversion[0], schedule.sigma_data))
    with own_graphs(m.model_options, m.wrappers) if recorder.request.blocks else nullcontext(call) as recorder.call:
        x = run_sampler(m, positive, start, sampler, schedule.inversion, callback)
    noise = rescale(model, x, vp_scale(schedule.sampling[0], schedule.sigma_data) / vp_scale(schedule.inversion[-1], schedule.sigma_data))
    return noise, recorder.features(steps)


def in_batches(model, content: torch.Tensor, style: torch.Tensor) -> list[torch.Tensor]:
    """The latents of both as one batch to invert, or as two when their sizes differ or memory is short."""
    shape = [len(content) + len(style), *content.shape[1:]]
    return [torch.cat((content, style))] if content.shape[1:] == style.shape[1:] and fits_in_one_batch(model, shape) else [content, style]


def invert_both(model, positive, batches: list[torch.Tensor], contents: int, schedule: Schedule, callbacks: list) -> list[tuple]:
    """[what `invert` gives for content, for style] from `in_batches`, where the first so many latents are `contents`."""
    inverted = [invert(model, positive, batch, schedule, callback) for batch, callback in zip(batches, callbacks)]
    if len(inverted) == 2:
        return inverted
    [(noise, features)] = inverted
    return list(zip((noise[:contents], noise[contents:]), split_batch(features, contents)))
