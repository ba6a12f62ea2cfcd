"""An autoencoder in TAESD's layout whose weights are written down instead of trained: it averages and interpolates.

Three latent channels are the means of red, green and blue over 8 x 8 pixels, the fourth is zero. All signals stay
positive, so the layout's ReLUs pass them, and its residual blocks, left at zero, do nothing.
"""

import comfy.sd
import comfy.taesd.taesd
import torch

CONTRAST = 4.0  # latent over pixel value, so that latents have about unit variance
SCALE = 0.18215  # of SD 1.x latents
IDENTITY = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
HALVE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.25, 0.25], [0.0, 0.25, 0.25]])
SMOOTH = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16


def set_kernels(layers: torch.nn.Sequential, resampling: torch.Tensor):
    """Pass red, green and blue through every convolution of `layers`, with `resampling` in those that change the size."""
    for parameter in layers.parameters():
        torch.nn.init.zeros_(parameter)
    for layer in layers:
        if isinstance(layer, torch.nn.Conv2d):
            for channel in range(3):
                layer.weight.data[channel, channel] = IDENTITY if layer.bias is not None else resampling


def load_autoencoder():
    """A VAE, loaded by ComfyUI as any TAESD is."""
    encoder, decoder = comfy.taesd.taesd.Encoder(), comfy.taesd.taesd.Decoder()
    set_kernels(encoder, HALVE)
    set_kernels(decoder, SMOOTH)
    encoder[-1].weight.data *= CONTRAST
    encoder[-1].bias.data[:3] = -CONTRAST / 2
    decoder[1].weight.data /= CONTRAST
    decoder[1].bias.data[:3] = 0.5
    state = {f"taesd_{name}.{key}": value
             for name, layers in (("encoder", encoder), ("decoder", decoder)) for key, value in layers.state_dict().items()}
    return comfy.sd.VAE(sd=state | {"vae_scale": torch.tensor(SCALE), "vae_shift": torch.tensor(0.0)})
