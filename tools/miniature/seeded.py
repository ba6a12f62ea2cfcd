"""Stand-ins with seeded weights for models that example workflows load: layouts are real, widths are reduced."""

import comfy.controlnet
import comfy.model_management
import comfy.supported_models
import torch
from comfy.cldm.cldm import ControlNet

from .autoencoder import CHANNELS, OnLatents
from .unet import CONTEXT_DIM, UNET, load_unet, seeded_tensor

LINEAR = UNET | dict(num_heads=-1, num_head_channels=16, use_linear_in_transformer=True)
SDXL = LINEAR | dict(num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4], transformer_depth=[0, 0, 2, 2, 3, 3],
                     transformer_depth_output=[0, 0, 0, 2, 2, 2, 3, 3, 3], transformer_depth_middle=3,
                     num_classes="sequential", adm_in_channels=2816)
DEMO_SDXL = SDXL | dict(in_channels=CHANNELS, out_channels=CHANNELS)


class MiniatureXL(OnLatents, comfy.supported_models.SDXL):
    pass


def load_sdxl():
    """MODEL in the layout of SDXL, on the latents of the demo's autoencoder."""
    return load_unet(output_gain=0.03, unet_config=DEMO_SDXL, family=MiniatureXL)


def sdxl_conditioning() -> list:
    """CONDITIONING with the pooled output that SDXL's text encoders give."""
    return [[seeded_tensor("sdxl prompt", (1, 7, CONTEXT_DIM), 0, 1.0), {"pooled_output": torch.zeros(1, 1280)}]]


def load_controlnet(unet: dict = UNET) -> comfy.controlnet.ControlNet:
    """A ControlNet in the layout of a UNet."""
    unet = {key: value for key, value in unet.items()
            if key not in ("out_channels", "transformer_depth_output", "legacy")}
    network = ControlNet(hint_channels=3, legacy=False, **unet)
    network.load_state_dict({name: seeded_tensor(name, tuple(tensor.shape), 5, 1.0)
                             for name, tensor in network.state_dict().items()})
    network.eval().requires_grad_(False)
    return comfy.controlnet.ControlNet(network, load_device=comfy.model_management.get_torch_device())
