"""A UNet of 8.5 million parameters in the layout of SD 1.x, with weights that any language can draw from a seed.

Every tensor is drawn by its name, so that the golden values in tests/golden belong to exactly these weights.
"""

import math
import zlib

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import numpy
import torch

CONTEXT_DIM = 32
UNET = dict(image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[2, 2, 2, 2], channel_mult=[1, 2, 4, 4],
            num_heads=8, num_head_channels=-1, use_spatial_transformer=True, use_linear_in_transformer=False, context_dim=CONTEXT_DIM,
            transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_output=[1] * 9 + [0] * 3, transformer_depth_middle=1,
            adm_in_channels=None, legacy=False, dtype=torch.float32)


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


def load_unet(weight_seed: int = 0, output_gain: float = 0.3, unet_config: dict = UNET, family=comfy.supported_models.SD15):
    """A MODEL with seeded weights, built by ComfyUI as a checkpoint of `family`.

    `output_gain` scales the predicted noise, 0.3 in the golden values.
    """
    config = family(dict(unet_config))
    config.unet_config = dict(unet_config)
    device, offload_device = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
    model = config.get_model({}, device=offload_device)
    model.diffusion_model.load_state_dict({
        name: seeded_tensor(name, tuple(tensor.shape), weight_seed, output_gain)
        for name, tensor in model.diffusion_model.state_dict().items()})
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload_device)


def empty_conditioning() -> list:
    """CONDITIONING (1, 77, context): what stands for the empty prompt of this model."""
    return [[seeded_tensor("empty prompt", (1, 77, CONTEXT_DIM), 0, 1.0), {}]]
