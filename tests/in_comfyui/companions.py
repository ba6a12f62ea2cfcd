"""Other nodes of ComfyUI that change a MODEL, each as a function from one MODEL to another."""

import comfy.sd
import torch
from comfy.ldm.modules.attention import SpatialTransformer
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_freelunch import FreeU
from comfy_extras.nodes_pag import PerturbedAttentionGuidance

from tools.miniature.unet import CONTEXT_DIM, seeded_tensor


def first_output(result):
    return getattr(result, "result", result)[0]


def with_lora(model):
    """A LoRA of rank 2 on the projections of self-attention, in the key format of the usual trainers."""
    lora = {}
    for number, block in enumerate(model.model.diffusion_model.output_blocks):
        if len(block) < 2 or not isinstance(block[1], SpatialTransformer):
            continue
        attn1 = block[1].transformer_blocks[0].attn1
        for name in ("to_q", "to_k", "to_v"):
            key = f"lora_unet_output_blocks_{number}_1_transformer_blocks_0_attn1_{name}"
            width = getattr(attn1, name).in_features
            lora |= {f"{key}.lora_down.weight": seeded_tensor(f"{key}.down", (2, width), 1, 1.0),
                     f"{key}.lora_up.weight": seeded_tensor(f"{key}.up", (width, 2), 1, 1.0) * 0.5}
    return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0.0)[0]


def with_image_tokens(model):
    """What an IP-Adapter does to cross-attention: more tokens in its context."""
    tokens = seeded_tensor("image tokens", (1, 4, CONTEXT_DIM), 2, 20.0)

    def add_tokens(n, context, value, extra_options):
        context = torch.cat([context, tokens.to(context).expand(len(context), -1, -1)], 1)
        return n, context, context

    m = model.clone()
    m.set_model_attn2_patch(add_tokens)
    return m


COMPANY = {
    "FreeU": lambda model: first_output(FreeU.execute(model, 1.1, 1.2, 0.9, 0.2)),
    "PerturbedAttentionGuidance": lambda model: first_output(PerturbedAttentionGuidance.execute(model, 3.0)),
    "LoRA": with_lora,
    "image tokens in attn2": with_image_tokens,
    "EasyCache": lambda model: first_output(EasyCacheNode.execute(model, 0.3, 0.0, 1.0, False)),
}
