"""The demo's trained autoencoder in TAESD's layout, and the latents on which the demo's models work."""

from pathlib import Path

import comfy.latent_formats
import comfy.sd
import comfy.utils

WEIGHTS = Path(__file__).parent / "weights"
AUTOENCODER = WEIGHTS / "autoencoder.safetensors"
CHANNELS = 8  # of a latent: four keep neither green nor narrow strokes


class Latents(comfy.latent_formats.LatentFormat):
    """As the encoder makes them, from the VAE's scale, which is that of SD 1.x. The factors for previews are least
    squares on photographs and paintings.
    """
    scale_factor = comfy.latent_formats.SD15().scale_factor
    latent_channels = CHANNELS
    latent_rgb_factors = [[-0.016, -0.061, 0.094], [0.170, 0.201, 0.277], [-0.405, -0.230, -0.102],
                          [0.006, -0.164, -0.246], [-0.055, -0.046, -0.002], [-0.146, -0.149, -0.095],
                          [-0.084, -0.036, -0.040], [0.038, -0.003, 0.137]]
    latent_rgb_factors_bias = [-0.205, -0.312, -0.447]


class OnLatents:
    """Beside a class of comfy.supported_models: that family, on these latents."""
    latent_format = Latents

    def inpaint_model(self) -> bool:
        return False  # what ComfyUI takes more than 4 channels of SD 1.x and SDXL for


def load_autoencoder() -> comfy.sd.VAE:
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(AUTOENCODER)))
