"""A flow transformer of 8.5 million parameters in the layout of Lumina 2 and Z-Image."""

import comfy.supported_models
import comfy.utils
import torch

from .autoencoder import CHANNELS, WEIGHTS, Latents
from .unet import CONTEXT_DIM, new_unet

FLOW = dict(image_model="lumina2", patch_size=2, in_channels=CHANNELS, dim=256, n_layers=6, n_refiner_layers=1,
            n_heads=8, n_kv_heads=8, multiple_of=32, ffn_dim_multiplier=8 / 3, qk_norm=True, cap_feat_dim=CONTEXT_DIM,
            axes_dims=[8, 12, 12], axes_lens=[64, 512, 512], rope_theta=256.0, z_image_modulation=True,
            time_scale=1000.0, dtype=torch.float32)
DEVIATION = 0.8  # of the autoencoder's latents


class UnitLatents(Latents):
    """At a deviation of 1."""
    scale_factor = Latents.scale_factor / DEVIATION
    latent_rgb_factors = [[DEVIATION * factor for factor in factors] for factors in Latents.latent_rgb_factors]


class MiniatureFlow(comfy.supported_models.Lumina2):
    latent_format = UnitLatents
    sampling_settings = {"multiplier": 1.0, "shift": 2.0}  # at 1 too few steps near pure noise lose the way


def new_flow():
    """A MODEL whose weights are still to be set."""
    return new_unet(FLOW, MiniatureFlow)


def load_trained_flow():
    """The MODEL, for the prompts of the trained UNet."""
    patcher = new_flow()
    network = patcher.model.diffusion_model
    network.load_state_dict(comfy.utils.load_torch_file(str(WEIGHTS / "flow.safetensors")))
    network.eval().requires_grad_(False)
    return patcher
