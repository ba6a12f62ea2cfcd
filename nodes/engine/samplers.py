"""Refuses samplers that leave the inverted path by adding noise: reads their options, and runs them on a toy."""

from types import SimpleNamespace

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher

from ...styleid_core.ddim import sample_ddim
from . import host, logger

# Parts of names, for samplers that cannot be run.
STOCHASTIC = ("ancestral", "sde", "ddpm", "lcm", "restart", "seeds", "sa_solver")
TRIED_SIGMAS = 6  # of a sampler of ComfyUI; of others all, as some add their noise only in a part of them


class ToyGuider:
    """Stands in for a guider: a denoiser for Gaussian data of unit deviation, which most samplers can run on."""

    def __init__(self, model: ModelPatcher, cfg: float):
        sampling = model.get_model_object("model_sampling")
        self.model_patcher, self.model_options, self.cfg, self.conds = model, model.model_options, cfg, {}
        self.inner_model = SimpleNamespace(model_sampling=sampling)

    def __call__(self, x, sigma, model_options, seed=None):
        denoised = x / (1 + sigma.view(-1, 1, 1, 1) ** 2)
        for post_cfg in model_options.get(host.POST_CFG, []):
            denoised = post_cfg({
                "denoised": denoised, "cond_denoised": denoised, "uncond_denoised": 0.9 * denoised, "input": x,
                "sigma": sigma, "cond_scale": self.cfg, "model": self.inner_model, "model_options": model_options})
        return denoised


def sampled_with(seed: int, model, cfg: float, sampler, sigmas: torch.Tensor) -> torch.Tensor:
    """What `sampler` makes of one latent on the toy, with all random generators at `seed`."""
    x = torch.linspace(-1, 1, 16).view(1, 1, 4, 4) * sigmas[0]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would change those of all GPUs too
        sigmas = sigmas.clone()  # uni_pc writes into them
        extra_args = {"model_options": {host.TRANSFORMER_OPTIONS: {host.SAMPLE_SIGMAS: sigmas}}, "seed": seed}
        return sampler.sample(ToyGuider(model, cfg), sigmas, extra_args, None, torch.zeros_like(x), x, None, True)


def function_name(sampler) -> str:
    """Also of what has no name, such as a partial function."""
    function = getattr(sampler, "sampler_function", sampler)
    while hasattr(function, "func"):
        function = function.func
    return getattr(function, "__name__", type(function).__name__).removeprefix("sample_")


def adds_noise(model: ModelPatcher, cfg: float, sampler, sigmas: torch.Tensor) -> bool | None:
    """Whether two seeds give two results; None where the sampler asks more of a model than the toy has."""
    function = getattr(sampler, "sampler_function", None)
    if len(sigmas) < 2 or function is sample_ddim:
        return False
    sigmas = sigmas.float().cpu()
    if getattr(function, "__module__", "").startswith("comfy.") and len(sigmas) > TRIED_SIGMAS:
        sigmas = sigmas[torch.linspace(0, len(sigmas) - 1, TRIED_SIGMAS).round().long()]
    try:
        first, second = (sampled_with(seed, model, cfg, sampler, sigmas) for seed in (1, 2))
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:  # noqa: BLE001  a sampler of another pack may fail in any way
        logger.debug("The sampler %s could not be tried: %s", function_name(sampler), error)
        return None
    return not torch.equal(first, second)


def check_sampler(model: ModelPatcher, cfg: float, sampler, sigmas: torch.Tensor):
    """ValueError for a sampler that adds noise along `sigmas` (N + 1,); a warning for one that cannot be tried."""
    name, options = function_name(sampler), getattr(sampler, "extra_options", {})
    noise = options.get("s_churn", 0) > 0 or adds_noise(model, cfg, sampler, sigmas)
    if noise is None:
        noise = options["eta"] != 0 if "eta" in options else any(kind in name for kind in STOCHASTIC)
        if not noise:
            logger.warning("The sampler %s cannot be tried without a picture. It must add no noise on the way.", name)
    if noise:
        knob = next((f"Set {option} to 0, or use" for option in ("s_churn", "eta") if options.get(option)), "Use")
        raise ValueError(f"The sampler {name} adds noise at every step and leaves the path that was inverted. "
                         f"{knob} a deterministic one: euler, ddim, heun, dpmpp_2m, uni_pc.")
