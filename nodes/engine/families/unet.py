"""UNets with self-attention in their decoder: its blocks, and the patches that record and inject at their input."""

import math
from collections.abc import Callable

import comfy.ldm.modules.attention as comfy_attention
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP

from ....styleid_core.blocks import Block, choose
from ....styleid_core.paths import Diffusion
from ....styleid_core.plan import KeySet, attend, inputs, is_plain

NAME = "a UNet with self-attention in its decoder (SD 1.x, SD 2.x, SDXL)"
WRAPPED = WrappersMP.DIFFUSION_MODEL
IN_LOCKSTEP = False


def is_transformer(layer) -> bool:
    """Whether a layer of a UNet holds transformer blocks with self-attention in one picture, and not over time too."""
    return (hasattr(layer, "transformer_blocks") and hasattr(layer.transformer_blocks[0], "attn1")
            and not hasattr(layer, "time_stack"))


def matches(model: ModelPatcher) -> bool:
    """By what it has, and not by its class, which other packs exchange."""
    output_blocks = getattr(model.model.diffusion_model, "output_blocks", ())
    return any(is_transformer(layer) for block in output_blocks for layer in block)


def path(model: ModelPatcher) -> Diffusion:
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, CONST):
        raise ValueError("This model is set to flow matching, whose path from picture to noise is not the one that DDIM inverts. "
                         "Remove the node that changes its sampling (ModelSamplingSD3, ModelSamplingFlux).")
    return Diffusion(float(sampling.sigma_data))


def place(model: ModelPatcher, arguments: list, kwargs: dict) -> int:
    """All pictures stand alike."""
    return 0


def embedding(model: ModelPatcher) -> None:
    """Tokens carry no places."""


def at_place(model: ModelPatcher, n: torch.Tensor, by: int) -> torch.Tensor:
    return n


def blocks(model: ModelPatcher) -> list[Block]:
    return [Block("output", number, index)
            for number, block in enumerate(model.model.diffusion_model.output_blocks)
            for layer in block if is_transformer(layer)
            for index in range(len(layer.transformer_blocks))]


def select(model: ModelPatcher, text: str) -> list[Block]:
    """"auto" is the paper's choice in terms of any layout: the two finest resolutions of the decoder that have self-attention,
    which are blocks 6-11 in SD 1.x and SD 2.x, and 0-5 in SDXL.
    """
    available = blocks(model)
    if text.strip().lower() == "auto":
        numbers = finest_blocks(model, levels=2)
        return [block for block in available if block.number in numbers]
    return choose(text, available)


def doublings_left(model: ModelPatcher) -> list[int]:
    """Of each output block: how often the picture is still doubled between its self-attention and the end."""
    upsampling = [any(isinstance(layer, Upsample) for layer in block) for block in model.model.diffusion_model.output_blocks]
    return [sum(upsampling[number:]) for number in range(len(upsampling))]


def finest_blocks(model: ModelPatcher, levels: int) -> set[int]:
    """Numbers of the output blocks in the last `levels` resolutions of the decoder that have self-attention."""
    left = doublings_left(model)
    attended = {block.number for block in blocks(model)}
    finest = sorted({left[number] for number in attended})[:levels]
    return {number for number in attended if left[number] in finest}


def token_shapes(model: ModelPatcher, blocks: list[Block], size: tuple[int, int]) -> list[tuple[int, int, int]]:
    left = doublings_left(model)
    shapes = []
    for _, number, index in blocks:
        [transformers] = (layer.transformer_blocks for layer in model.model.diffusion_model.output_blocks[number]
                          if is_transformer(layer))
        height, width = (math.ceil(side / 2 ** left[number]) for side in size)
        shapes.append((height, width, transformers[index].attn1.to_q.in_features))
    return shapes


def block_address(extra_options: dict) -> Block:
    return Block(*extra_options["block"], extra_options["block_index"])  # torch 2.11 compiles no plain tuple that stands for one


def put_around(options: dict, first: tuple = (), last: tuple = ()):
    """Run attn1_patches before every other, so that they meet the LayerNorm output and not what others make of it, or after."""
    patches = options["patches"] = options.get("patches", {}).copy()
    patches["attn1_patch"] = [*first, *patches.get("attn1_patch", []), *last]


def record(model: ModelPatcher, options: dict, blocks: list[Block], seen: dict[Block, torch.Tensor], shape: tuple[int, int, int]):
    def attn1_patch(n, context, value, extra_options):
        block = block_address(extra_options)
        if block in blocks:
            seen[block] = n
        return n, context, value

    put_around(options, first=(attn1_patch,))
    refuse_tiles(options, lambda block: shape[0] if block in blocks else None)


def inversion_prompt(model: ModelPatcher, conditioning: list) -> list:
    return conditioning


def refuse_tiles(options: dict, pictures: Callable[[Block], int | None]):
    def attn1_patch(n, context, value, extra_options):
        expected = pictures(block_address(extra_options))
        if expected is not None and not len(n) == len(context) == expected:
            raise ValueError("Another node cuts self-attention into tiles (HyperTile, MSW-MSA), and each would see only a part of the "
                             "style. Remove it from the model that is inverted and from the one that is sampled.")
        return n, context, value

    put_around(options, last=(attn1_patch,))


def inject(options: dict, injection):
    def attn1_patch(n, context, value, extra_options):
        block = block_address(extra_options)
        if block not in injection.plans:
            return n, context, value
        injection.reached[block] = True
        plan = injection.plans[block]
        for part in plan:
            if part.n_style is not None and (n.shape != part.n_content.shape or n.shape[-1] != part.n_style.shape[-1]):
                raise ValueError(f"The self-attention of output block {block[1]} works on {list(n.shape)} (batch, tokens, channels), which "
                                 f"does not fit content_features {list(part.n_content.shape)} and style_features "
                                 f"{list(part.n_style.shape)}. Capture them with the model that samples, without nodes that shrink the "
                                 "picture inside the UNet.")
        if not plan:
            return n, context, value
        n, context = inputs(plan, n)
        return n, context, context

    put_around(options, first=(attn1_patch,))
    refuse_tiles(options, lambda block: len(injection.plans[block][-1].n_content) if injection.plans.get(block) else None)


def call_options(model: ModelPatcher, options: dict, kwargs: dict, injection=None) -> dict:
    """Attention is ours where a plan has several key sets, and where another node has put its own in place of it, which is then called
    for each of them.
    """
    replacements = options.get("patches_replace", {}).get("attn1", {})
    ours = {}
    for block in injection.blocks if injection else ():
        plan = injection.plans[block] = injection.plan(block)
        key = block if block in replacements else block[:2]
        if plan and key in replacements:
            # It may hand on the picture's own values, and may need the whole picture.
            own = plan[0] if plan[0].n_style is None else KeySet(rows=torch.empty(0, dtype=torch.long))
            plan = injection.plans[block] = [own, *(part._replace(rows=None) for part in plan if part.n_style is not None)]
        if plan and not is_plain(plan):
            ours[block] = attention_apart(plan, replacements.get(key), options)
    return options | {"patches_replace": options.get("patches_replace", {}) | {"attn1": replacements | ours}} if ours else options


def attention_apart(plan: list[KeySet], replace: Callable | None, options: dict) -> Callable:
    """An attn1_replace for the projected `inputs` of a plan: each set through ComfyUI's attention, or through what another node gave."""
    def attn1_replace(q, k, v, extra_options):
        def attention(q, k, v):
            if replace is not None:
                return replace(q, k, v, extra_options)
            return comfy_attention.optimized_attention(q, k, v, extra_options["n_heads"], attn_precision=extra_options["attn_precision"],
                                                       transformer_options=options | extra_options)

        return attend(plan, plan[-1].n_content.shape[1], extra_options["n_heads"], q, k, v, attention)

    return attn1_replace
