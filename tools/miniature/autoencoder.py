"""The demo's trained autoencoders, in TAESD's layout: of 4 channels for the UNet, of 8 for the transformer."""

import comfy.sd
import comfy.utils

from .unet import WEIGHTS

AUTOENCODER, FLOW_AUTOENCODER = WEIGHTS / "autoencoder.safetensors", WEIGHTS / "flow_autoencoder.safetensors"


def load_autoencoder(flow: bool = False) -> comfy.sd.VAE:
    """A VAE; `flow` for that of the transformer."""
    return comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(FLOW_AUTOENCODER if flow else AUTOENCODER)))
