"""The demo's trained autoencoder, in TAESD's layout."""

import comfy.sd
import comfy.utils

from .unet import WEIGHTS


def load_autoencoder() -> comfy.sd.VAE:
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(WEIGHTS / "autoencoder.safetensors")))
