"""Which self-attentions a UNet has, and which of them a user's text names."""

import math
from collections import Counter

from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample

from ..styleid_core.blocks import Block, parse_layers, quote


def is_transformer(layer) -> bool:
    """Whether a layer of a UNet holds transformer blocks with self-attention."""
    return hasattr(layer, "transformer_blocks") and hasattr(layer.transformer_blocks[0], "attn1")


def check_unet(model):
    """By what it has, and not by its class, which other packs exchange."""
    unet = model.model.diffusion_model
    if not any(is_transformer(layer) for block in getattr(unet, "output_blocks", ()) for layer in block):
        raise ValueError("StyleID needs a UNet with self-attention in its decoder (SD 1.x, SD 2.x, SDXL), and this model is a "
                         f"{type(unet).__name__}. Load a checkpoint of one of those families.")


def self_attention_blocks(model) -> list[Block]:
    """Every self-attention in the decoder of a MODEL; ValueError for a model that is not a UNet with `attn1`."""
    check_unet(model)
    return [("output", number, index)
            for number, block in enumerate(model.model.diffusion_model.output_blocks)
            for layer in block if is_transformer(layer)
            for index in range(len(layer.transformer_blocks))]


def doublings_left(model) -> list[int]:
    """Of each output block: how often the picture is still doubled between its self-attention and the end."""
    upsampling = [any(isinstance(layer, Upsample) for layer in block) for block in model.model.diffusion_model.output_blocks]
    return [sum(upsampling[number:]) for number in range(len(upsampling))]


def finest_blocks(model, levels: int) -> set[int]:
    """Numbers of the output blocks in the last `levels` resolutions of the decoder that have self-attention."""
    left = doublings_left(model)
    attended = {number for _, number, _ in self_attention_blocks(model)}
    finest = sorted({left[number] for number in attended})[:levels]
    return {number for number in attended if left[number] in finest}


def token_shapes(model, blocks: list[Block], size: tuple[int, int]) -> list[tuple[int, int]]:
    """(tokens, channels) that the self-attention of each of `blocks` sees when a latent of `size` (H, W) is sampled."""
    left = doublings_left(model)
    shapes = []
    for _, number, index in blocks:
        [transformers] = (layer.transformer_blocks for layer in model.model.diffusion_model.output_blocks[number]
                          if is_transformer(layer))
        height, width = (math.ceil(side / 2 ** left[number]) for side in size)
        shapes.append((height * width, transformers[index].attn1.to_q.in_features))
    return shapes


def select_blocks(model, layers: str) -> list[Block]:
    """The self-attentions of MODEL that `layers` names; ValueError for a part of it that names none.

    "auto" is the paper's choice in terms of any layout: the two finest resolutions of the decoder that have self-attention,
    which are blocks 6-11 in SD 1.x and SD 2.x, and 0-5 in SDXL.
    """
    available = self_attention_blocks(model)
    if layers.strip().lower() == "auto":
        numbers = finest_blocks(model, levels=2)
        return [block for block in available if block[1] in numbers]
    items = parse_layers(layers)
    transformers = Counter(number for _, number, _ in available)
    for item in items:
        for number in item.numbers:
            if number not in transformers:
                raise ValueError(f"layers {quote(layers)}: output block {number} of this model has no self-attention. "
                                 f'Choose from {", ".join(map(str, transformers))}, or write "auto".')
            if item.indices and item.indices[-1] >= transformers[number]:
                raise ValueError(f"layers {quote(layers)}: the transformers in output block {number} of this model are numbered "
                                 f"0 to {transformers[number] - 1}.")
    return [block for block in available if any(block in item for item in items)]
