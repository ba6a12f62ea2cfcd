"""A flow transformer of 8.5 million parameters in the layout of Lumina 2 and Z-Image, on the latents of an autoencoder of its own."""

import comfy.latent_formats
import comfy.supported_models
import comfy.utils
import torch

from .unet import CONTEXT_DIM, WEIGHTS, new_unet

CHANNELS = 8  # of a latent
FLOW = dict(image_model="lumina2", patch_size=2, in_channels=CHANNELS, dim=256, n_layers=6, n_refiner_layers=1, n_heads=8, n_kv_heads=8,
            multiple_of=32, ffn_dim_multiplier=8 / 3, qk_norm=True, cap_feat_dim=CONTEXT_DIM, axes_dims=[8, 12, 12],
            axes_lens=[64, 512, 512], rope_theta=256.0, z_image_modulation=True, time_scale=1000.0, dtype=torch.float32)
DEVIATION = 0.8  # of the autoencoder's latents


class Latents(comfy.latent_formats.LatentFormat):
    """At a deviation of 1, from the scale in which the VAE gives them, which is that of SD 1.x."""
    scale_factor = comfy.latent_formats.SD15().scale_factor / DEVIATION
    latent_channels = CHANNELS


class MiniatureFlow(comfy.supported_models.Lumina2):
    latent_format = Latents
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
