"""An autoencoder in TAESD's layout: trained for squared error, then for absolute error and LPIPS (Zhang et al. 2018,
arXiv 1801.03924), as squared error restores a blur.
"""

from collections.abc import Callable

import torch
from comfy.taesd.taesd import TAESD, Block
from safetensors.torch import load_file

from ..miniature.autoencoder import AUTOENCODER, CHANNELS, Latents
from .loop import Task
from .pictures import Data, Pool, load_pictures

CROP = 128
BATCH, STROKES = 4, 1  # with fine detail in view, that many of a batch are drawn strokes
SHORT_SIDES = (192, 256, 384)
LATENT_STD = 0.8  # well inside the tanh that bounds the decoder's input
LATENT_WEIGHT = 0.01
LATENT_NOISE, DETAIL_LATENT_NOISE = 0.05, 0.1  # the decoder must bear what a sampler leaves over
LPIPS_SHARE = 0.25  # of the loss; a larger one invents detail
DECODERS_LPIPS_SHARE = 0.6  # at 0.25 a long run sinks to a fine energy of 0.46
LPIPS_STRIDE = 4  # of AlexNet's first convolution; it would leave a grid if it saw every crop from the same corner
DETAIL_AVERAGE_DECAY = 0.995


def new_autoencoder() -> TAESD:
    torch.manual_seed(0)
    network = TAESD(latent_channels=CHANNELS)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
        else:
            torch.nn.init.zeros_(parameter)
    for block in network.modules():
        if isinstance(block, Block):
            block.conv[-1].weight.data *= 0.1
    network.vae_scale.data.fill_(Latents.scale_factor)  # for ComfyUI alone
    return network.to(memory_format=torch.channels_last)


def shipped_autoencoder() -> TAESD:
    network = new_autoencoder()
    network.load_state_dict(load_file(AUTOENCODER))
    return network.requires_grad_(False)


def autoencoder_task(autoencoder: TAESD, data: Data) -> Task:
    """Encoder and decoder, for squared error."""
    def loss(network, pool, generator):
        x, z, restored = restore(network, pool.crops(BATCH, CROP, generator)[0], LATENT_NOISE, generator)
        return (restored - x).square().mean() + LATENT_WEIGHT * latent_error(z)

    return Task("autoencoder", autoencoder.requires_grad_(True), loss, *pools(data))


def detail_task(autoencoder: TAESD, data: Data, lpips: Callable[..., torch.Tensor],
                decoder_alone: bool = False) -> Task:
    """Both, for absolute error and LPIPS; or the decoder alone, so that models of the encoder's latents stay as good as
    they are.
    """
    name, share = ("decoder", DECODERS_LPIPS_SHARE) if decoder_alone else ("detail", LPIPS_SHARE)
    strokes = Pool(load_pictures(data.strokes, (512,)), data.device)

    def loss(network, pool, generator):
        crops = torch.cat([pool.crops(BATCH - STROKES, CROP, generator)[0], strokes.crops(STROKES, CROP, generator)[0]])
        x, z, restored = restore(network, crops, DETAIL_LATENT_NOISE, generator)
        top, left = torch.randint(LPIPS_STRIDE, (2,), generator=generator).tolist()
        distance = lpips(restored[..., top:, left:], x[..., top:, left:]).mean()
        error = (1 - share) * (restored - x).abs().mean() + share * distance
        return error if decoder_alone else error + LATENT_WEIGHT * latent_error(z)

    autoencoder.requires_grad_(True).taesd_encoder.requires_grad_(not decoder_alone)
    return Task(name, autoencoder, loss, *pools(data), DETAIL_AVERAGE_DECAY)


def pools(data: Data) -> list[Pool]:
    """What is trained on, and what is held back."""
    return [Pool(load_pictures(paths, SHORT_SIDES), data.device) for paths in (data.training, data.held_back)]


def restore(autoencoder: TAESD, crops: torch.Tensor, noise: float,
            generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(x, z, restored): uint8 crops (B, 3, H, W) in 0..1, mirrored half of the time, their latents, and what the
    decoder makes of these with noise of that deviation.
    """
    if torch.rand(1, generator=generator) < 0.5:
        crops = crops.flip(-1)
    x = crops / 255
    z = autoencoder.taesd_encoder(x)
    return x, z, autoencoder.taesd_decoder(z + noise * torch.randn(z.shape, generator=generator).to(z.device))


def latent_error(z: torch.Tensor) -> torch.Tensor:
    """How far each channel of latents (B, C, H, W) is from a mean of 0 and its deviation."""
    return (z.mean((0, 2, 3)).square() + (z.std((0, 2, 3)) - LATENT_STD).square()).mean()
