"""UNets in the layout of SD 1.x: the demo's trained one, of 12.7 million parameters, and seeded ones of 8.5.

A seeded UNet draws every tensor by its name, so that any language can make it: the golden values in tests/golden belong
to exactly these weights.
"""

import math
import zlib

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import numpy
import torch

from .autoencoder import CHANNELS, WEIGHTS, OnLatents

CONTEXT_DIM = 32
UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[2, 2, 2, 2],
            channel_mult=[1, 2, 4, 4], num_heads=8, num_head_channels=-1, use_spatial_transformer=True,
            use_linear_in_transformer=False, context_dim=CONTEXT_DIM, transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
            transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1, adm_in_channels=None, legacy=False,
            dtype=torch.float32)
WIDE_HEADS = UNET | dict(num_heads=-1, num_head_channels=16)  # 8 heads of 4 channels blur the attention, and are slow
TRAINED_UNET = UNET | dict(in_channels=CHANNELS, out_channels=CHANNELS, model_channels=64, channel_mult=[1, 2, 2, 2],
                           # Twice as wide in the two resolutions where StyleID injects.
                           num_heads=-1, num_head_channels=32)
PROMPTS = ("empty prompt", "photograph", "western painting", "chinese painting")


class MiniatureSD(OnLatents, comfy.supported_models.SD15):
    pass


def seeded_tensor(name: str, shape: tuple[int, ...], weight_seed: int, output_gain: float) -> torch.Tensor:
    seed = zlib.crc32(name.encode()) + weight_seed
    r = numpy.random.Generator(numpy.random.PCG64(seed)).standard_normal(shape)
    if len(shape) >= 2:
        r *= gain(name, output_gain) / math.sqrt(math.prod(shape[1:]))
    else:
        r = 0.05 * r if name.endswith("bias") else 1 + 0.1 * r
    return torch.from_numpy(r.astype(numpy.float32))


def gain(name: str, output_gain: float) -> float:
    if "attn1.to_q" in name or "attn1.to_k" in name:
        return 1.5
    if name.startswith("out.2"):
        return output_gain
    return 0.5 if "proj_out" in name or "out_layers.3" in name else 1.0


def new_unet(unet_config: dict, family) -> comfy.model_patcher.ModelPatcher:
    """A MODEL whose weights are still to be set, built by ComfyUI as a checkpoint of `family`."""
    config = family(dict(unet_config))
    config.unet_config = dict(unet_config)
    device, offload_device = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(config.get_model({}, device=offload_device), load_device=device,
                                            offload_device=offload_device)


def load_unet(weight_seed: int = 0, output_gain: float = 0.3, unet_config: dict = UNET,
              family=comfy.supported_models.SD15):
    """A MODEL with seeded weights. `output_gain` scales the predicted noise, 0.3 in the golden values."""
    patcher = new_unet(unet_config, family)
    unet = patcher.model.diffusion_model
    unet.load_state_dict({name: seeded_tensor(name, tuple(tensor.shape), weight_seed, output_gain)
                          for name, tensor in unet.state_dict().items()})
    return patcher


def load_trained_unet() -> comfy.model_patcher.ModelPatcher:
    patcher = new_unet(TRAINED_UNET, MiniatureSD)
    patcher.model.diffusion_model.load_state_dict(comfy.utils.load_torch_file(str(WEIGHTS / "unet.safetensors")))
    return patcher


def prompt_token(prompt: str) -> torch.Tensor:
    """The one token (1, 1, context) by which the trained UNet knows a prompt, one of PROMPTS."""
    return seeded_tensor(f"prompt: {prompt}", (1, 1, CONTEXT_DIM), 0, 1.0) * math.sqrt(CONTEXT_DIM)


def conditioning(prompt: str = PROMPTS[0]) -> list:
    """CONDITIONING of a prompt, one of PROMPTS."""
    return [[prompt_token(prompt), {}]]
