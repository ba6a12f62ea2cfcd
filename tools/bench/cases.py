"""What is timed: layouts of real models with random weights, on which speed does not depend."""

import math
from typing import NamedTuple

import torch
from comfy.supported_models import SD15, SDXL, Flux

from ..miniature import transformers
from ..miniature.unet import UNET, WIDE_HEADS, new_unet

SD15_CONFIG = UNET | dict(model_channels=320, context_dim=768)
SDXL_CONFIG = UNET | dict(model_channels=320, context_dim=2048, num_heads=-1, num_head_channels=64,
                          use_linear_in_transformer=True, num_res_blocks=[2, 2, 2], channel_mult=[1, 2, 4],
                          transformer_depth=[0, 0, 2, 2, 10, 10], transformer_depth_middle=10,
                          transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10], num_classes="sequential",
                          adm_in_channels=2816)
FLUX_CONFIG = transformers.FLUX | dict(context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0, num_heads=24, depth=5,
                                       depth_single_blocks=10, axes_dim=[16, 56, 56])
GPU = torch.cuda.is_available()


class Case(NamedTuple):
    """A network, in half precision on a GPU and fp32 on a CPU, and latents (`batch`, channels, `side`, `side`): whole
    transfers, or only what follows the inversions, for several styles.
    """
    family: type
    config: dict
    side: int
    steps: int
    batch: int = 1
    only_sampling: bool = False


ON_CPU = {
    "SD 1.x in small, 256 x 256": Case(SD15, UNET, 32, 20),
    "Several styles, SD 1.x in small, 512 x 512": Case(SD15, WIDE_HEADS, 64, 2, only_sampling=True),
}
ON_GPU = {
    "SD 1.5, 512 x 512": Case(SD15, SD15_CONFIG, 64, 10),
    "SDXL, 1024 x 1024": Case(SDXL, SDXL_CONFIG, 128, 5),
    "Flux at a quarter of its depth, 1024 x 1024": Case(Flux, FLUX_CONFIG, 128, 5),
    "Several styles, SD 1.5, 512 x 512": Case(SD15, SD15_CONFIG, 64, 10, only_sampling=True),
    "SD 1.5, 4 pictures of 512 x 512": Case(SD15, SD15_CONFIG, 64, 10, batch=4),
    "SD 1.5, 768 x 768": Case(SD15, SD15_CONFIG, 96, 10),
}
CASES = ON_CPU | ON_GPU


def random_model(case: Case):
    half = torch.bfloat16 if case.family is Flux else torch.float16
    patcher = new_unet(case.config | dict(dtype=half if GPU else torch.float32), case.family)
    for parameter in patcher.model.diffusion_model.parameters():
        drawn = torch.randn(parameter.shape, device=patcher.load_device)
        parameter.data.copy_(drawn / math.sqrt(parameter.numel() / len(parameter)))
    return patcher


def conditioning(case: Case) -> list:
    tokens, channels = (256, "context_in_dim") if case.family is Flux else (77, "context_dim")
    pooled = torch.zeros(1, case.config.get("vec_in_dim", 1280))
    return [[torch.randn(1, tokens, case.config[channels]), {"pooled_output": pooled, "guidance": 1.0}]]
