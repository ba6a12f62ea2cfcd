"""A family for a test: UNets whose middle block is recorded and injected, and not the decoder."""

import sys

from tools.host import ROOT

unet = sys.modules[f"{str(ROOT).replace('.', '_x_')}.nodes.engine.families.unet"]

NAME = "a UNet with self-attention in its middle"
WRAPPED, IN_LOCKSTEP, TENSORS, LEAST_GAMMA = unet.WRAPPED, unet.IN_LOCKSTEP, unet.TENSORS, unet.LEAST_GAMMA
path, inversion_prompt, as_captured = unet.path, unet.inversion_prompt, unet.as_captured
position, embedding, moved = unet.position, unet.embedding, unet.moved
record, inject, for_call, above = unet.record, unet.inject, unet.for_call, unet.above


def matches(model):
    return unet.is_transformer(model.model.diffusion_model.middle_block[1])


def blocks(model):
    return [unet.Block("middle", 0, 0)]


def select(model, text):
    if text not in ("auto", "middle 0"):
        raise ValueError(f"There is no {text}.")
    return blocks(model)


def token_shapes(model, blocks, size):
    height, width = (side // 8 for side in size)
    return [(height, width, model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn1.to_q.in_features)]
