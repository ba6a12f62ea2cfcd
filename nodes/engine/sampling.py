"""Sampling runs on a ComfyUI MODEL without added noise, and the conditionings and latents that they take."""

from itertools import accumulate

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.ddim import sample_ddim, sample_fireflow
from ...styleid_core.paths import Diffusion, Flow
from . import checks
from .families import family_of


class Guidance(comfy.samplers.CFGGuider):
    """A guider for CONDITIONING `positive`, with classifier-free guidance by `negative` from the sigma `limit` down."""

    def __init__(self, model: ModelPatcher, positive: list, negative: list | None = None, cfg: float = 1.0,
                 limit: float = float("inf")):
        super().__init__(model)
        conds = {"positive": positive, "negative": negative}
        self.inner_set_conds({name: cond for name, cond in conds.items() if cond is not None})
        self.set_cfg(cfg)
        self.limit = limit

    def predict_noise(self, x, timestep, model_options, seed=None):
        # cfg first: to see the sigma, the CPU waits for the GPU. Another node may set cfg without a negative prompt.
        guided = self.cfg != 1 and "negative" in self.conds and timestep[0] <= self.limit
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds.get("negative"), self.conds["positive"],
            self.cfg if guided else 1.0, model_options=model_options, seed=seed)


def run_sampler(guider: comfy.samplers.CFGGuider, samples: torch.Tensor, sampler, sigmas: torch.Tensor,
                callback) -> torch.Tensor:
    """Sample from x = `samples` (B, C, H, W) at sigmas[0] without adding noise."""
    output = guider.sample(torch.zeros_like(samples), samples, sampler, sigmas, callback=callback,
                           disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED)
    checks.require_prediction(output)
    return output.to(comfy.model_management.intermediate_device())


def sampler_of(method: str) -> comfy.samplers.KSAMPLER:
    """The sampler that follows an inversion by `method`, one of `schedules.METHODS`, back."""
    return comfy.samplers.KSAMPLER(sample_fireflow if method == "fireflow" else sample_ddim)


def progress(model: ModelPatcher, *steps: int) -> list:
    """A callback for each of several sampling runs of so many steps, all with one progress bar and live previews."""
    total = sum(steps)
    callback = latent_preview.prepare_callback(model, total)

    def starting_at(start):
        return lambda step, x0, x, _: callback(start + step, x0, x, total)

    return [starting_at(start) for start in accumulate((0, *steps[:-1]))]


def path_of(model: ModelPatcher) -> Diffusion | Flow:
    return family_of(model).path(model)


def carried(model: ModelPatcher, samples: torch.Tensor, start, end) -> torch.Tensor:
    """A LATENT's samples, rescaled from sigma `start` to `end` as the model sees them: see `styleid_core.paths`."""
    latent_format = model.get_model_object("latent_format")  # the network's may be another clone's until it is loaded
    return latent_format.process_out(path_of(model).carried(latent_format.process_in(samples), start, end))


def keep_outside(mask: torch.Tensor, result: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    """`result` where a ComfyUI noise mask is 1, and `original` untouched where it is 0."""
    mask = mask.reshape(-1, *(1,) * (result.ndim - 3), *mask.shape[-2:])
    return original.to(result).lerp(result, comfy.sampler_helpers.prepare_mask(mask, result.shape, result.device))


def check_sampled(model: ModelPatcher, name: str, conditioning: list, sigmas: torch.Tensor):
    """ValueError unless a prompt covers the whole picture at each of `sigmas`."""
    percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
    checks.require_prompts(name, checks.entries_of(conditioning), sigmas.tolist(), percent_to_sigma)


def check_channels(model: ModelPatcher, samples: torch.Tensor, name: str):
    latent_format = model.get_model_object("latent_format")
    checks.require_model_channels(latent_format.latent_channels, latent_format.latent_dimensions == 3, samples, name)
