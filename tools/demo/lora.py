"""A LoRA for the demo's UNet, of seeded weights: for tests and for the campaign's server."""

from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..host import ROOT

UNET = ROOT / "tools" / "miniature" / "weights" / "unet.safetensors"
BLOCKS, RANK = (9, 10), 2


def write_lora(path: Path):
    """On the values of self-attention in the output BLOCKS, as wide as the shipped UNet has them; its folder is made.
    """
    generator, tensors = torch.Generator().manual_seed(1), {}
    with safe_open(UNET, "pt") as unet:
        for block in BLOCKS:
            name = f"output_blocks.{block}.1.transformer_blocks.0.attn1.to_v"
            to, of = unet.get_slice(f"{name}.weight").get_shape()
            for side, shape in (("down", (RANK, of)), ("up", (to, RANK))):
                drawn = 0.5 * torch.randn(shape, generator=generator)
                tensors[f"lora_unet_{name.replace('.', '_')}.lora_{side}.weight"] = drawn
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
