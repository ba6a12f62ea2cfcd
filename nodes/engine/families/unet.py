"""UNets with self-attention in their decoder: its blocks, and the patches that record and inject at their input."""

import math
from collections.abc import Callable

import comfy.ldm.modules.attention as comfy_attention
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import Upsample
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP

from ....styleid_core.attend import KEYS, Asked, Share, Shared, attend, joined, spread
from ....styleid_core.blocks import Block, choose
from ....styleid_core.features import Tokens
from ....styleid_core.paths import Diffusion
from .. import host
from ..call import CALL, Call

NAME = "a UNet with self-attention in its decoder (SD 1.x, SD 2.x, SDXL)"
WRAPPED = WrappersMP.DIFFUSION_MODEL
IN_LOCKSTEP = False
TENSORS = 1
LEAST_GAMMA = 0.2


def is_transformer(layer) -> bool:
    """Whether a layer of a UNet holds transformer blocks with self-attention in one picture, and not over time too."""
    return (hasattr(layer, "transformer_blocks") and hasattr(layer.transformer_blocks[0], "attn1")
            and not hasattr(layer, "time_stack"))


def matches(model: ModelPatcher) -> bool:
    """By its layers, and not by its class, which other packs replace."""
    output_blocks = getattr(model.model.diffusion_model, "output_blocks", ())
    return any(is_transformer(layer) for block in output_blocks for layer in block)


def path(model: ModelPatcher) -> Diffusion:
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, CONST):
        raise ValueError("This model is set to flow matching, whose path from picture to noise is not the one that "
                         "DDIM inverts. Remove the node that changes its sampling (ModelSamplingSD3, "
                         "ModelSamplingFlux).")
    return Diffusion(float(sampling.sigma_data))


def position(model: ModelPatcher, arguments: list, kwargs: dict) -> int:
    """All pictures stand alike."""
    return 0


def embedding(model: ModelPatcher) -> None:
    """Tokens carry no positions."""


def as_captured(kept: torch.Tensor) -> torch.Tensor:
    return kept


def moved(model: ModelPatcher, n: torch.Tensor, by: int) -> torch.Tensor:
    return n


def blocks(model: ModelPatcher) -> list[Block]:
    return [Block("output", number, index)
            for number, block in enumerate(model.model.diffusion_model.output_blocks)
            for layer in block if is_transformer(layer)
            for index in range(len(layer.transformer_blocks))]


def select(model: ModelPatcher, text: str) -> list[Block]:
    """"auto" is the paper's choice in terms of any layout: the two finest resolutions of the decoder that have
    self-attention, which are blocks 6-11 in SD 1.x and SD 2.x, and 0-5 in SDXL.
    """
    available = blocks(model)
    if text.strip().lower() == "auto":
        numbers = finest_blocks(model, levels=2)
        return [block for block in available if block.number in numbers]
    return choose(text, available)


def doublings_left(model: ModelPatcher) -> list[int]:
    """Of each output block: how often the picture is still doubled between its self-attention and the end."""
    output_blocks = model.model.diffusion_model.output_blocks
    upsampling = [any(isinstance(layer, Upsample) for layer in block) for block in output_blocks]
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
    # torch 2.11 cannot compile a plain tuple in place of a Block.
    return Block(*extra_options[host.BLOCK], extra_options[host.BLOCK_INDEX])


def put_around(options: dict, first: tuple = (), last: tuple = ()):
    """Puts attn1_patches before all others, where they see the LayerNorm output as it is, and after all others."""
    patches = options[host.PATCHES] = options.get(host.PATCHES, {}).copy()
    patches[host.ATTENTION_INPUT] = [*first, *patches.get(host.ATTENTION_INPUT, []), *last]


def record(model: ModelPatcher, options: dict, blocks: list[Block], seen: dict[Block, torch.Tensor],
           shape: tuple[int, int, int]):
    def attn1_patch(n, context, value, extra_options):
        block = block_address(extra_options)
        if block in blocks:
            seen[block] = n
        return n, context, value

    put_around(options, first=(attn1_patch,))
    refuse_tiles(options, lambda block, extra_options: shape[0] if block in blocks else None)


def inversion_prompt(model: ModelPatcher, conditioning: list) -> list:
    return conditioning


def refuse_tiles(options: dict, pictures: Callable[[Block, dict], int | None]):
    """`pictures` gives the batch size that a self-attention should have, or None."""
    def attn1_patch(n, context, value, extra_options):
        expected = pictures(block_address(extra_options), extra_options)
        if expected is not None and not len(n) == len(context) == expected:
            raise ValueError("Another node cuts self-attention into tiles (HyperTile, MSW-MSA), and each would see "
                             "only a part of the style. Remove it from the model that is inverted and from the one "
                             "that is sampled.")
        return n, context, value

    put_around(options, last=(attn1_patch,))


def inject(model: ModelPatcher, options: dict, blocks: list[Block], size: tuple[int, int]):
    """The patches ask each model call's own transformer_options what it attends to."""
    def attn1_patch(n, context, value, extra_options):
        block, call = block_address(extra_options), extra_options.get(CALL)
        if call is None or block not in call.prepared:
            return n, context, value
        call.reached[block] = True
        shared = call.prepared[block]
        if shared is None:
            return n, context, value
        for share in shared.shares:
            check_shape(block, n, share)
        context = key_inputs(shared, n)
        return query_inputs(shared, n), context, context

    def pictures(block, extra_options):
        call = extra_options.get(CALL)
        shared = call and call.prepared.get(block)
        return len(shared.shares[0].content) if shared else None

    put_around(options, first=(attn1_patch,))
    refuse_tiles(options, pictures)


def check_shape(block: Block, n: torch.Tensor, share: Share):
    if n.shape != share.content.shape or n.shape[-1] != share.style.shape[-1]:
        raise ValueError(f"The self-attention of output block {block.number} works on {list(n.shape)} (batch, tokens, "
                         f"channels), which does not fit content_features {list(share.content.shape)} and "
                         f"style_features {list(share.style.shape)}. Capture them with the model that samples, without "
                         "nodes that shrink the picture inside the UNet.")


def above(options: dict) -> None:
    """Attention that another node has put on top gets the mixed queries and the style's keys."""


def query_inputs(shared: Shared, n: torch.Tensor) -> torch.Tensor:
    """What gives the queries of all parts, one after the other, in place of n (batch, tokens, channels)."""
    return joined([shared.mixed(part, n) for part in shared.division.parts])


def key_inputs(shared: Shared, n: torch.Tensor) -> torch.Tensor:
    """What gives the keys and values of all sources; and a sample of n last, if `temperatures` are measured on it."""
    sample = [spread(n, KEYS)] if shared.measured else []
    own = [n] if shared.own else []
    return joined(own + [share.style for share in shared.shares] + sample)


def for_call(model: ModelPatcher, options: dict, kwargs: dict, call: Call | None = None) -> dict:
    """With a `call`, replaces the attention of blocks with several parts. Where another node has replaced it, that is
    called once for each part.
    """
    if call is None:
        return options
    replacements = options.get(host.REPLACEMENTS, {}).get(host.ATTENTION, {})
    prepared, ours = {}, {}
    for block in call.regions.blocks:
        key = block if block in replacements else (block.side, block.number)
        shared = call.shared(block)
        if shared and key in replacements:
            shared = shared._replace(whole=True)  # it may need all tokens, and may give the picture's own values
        if shared and not shared.is_plain:
            ours[block] = attention_apart(shared, replacements.get(key), options)
        prepared[block] = shared
    # Without what was prepared from, whose tensors torch.compile would take for inputs.
    changed = {CALL: call._replace(prepared=prepared, styles=[], features={})}
    if ours:
        changed[host.REPLACEMENTS] = options.get(host.REPLACEMENTS, {}) | {host.ATTENTION: replacements | ours}
    return options | changed


def attention_apart(shared: Shared, replace: Callable | None, options: dict) -> Callable:
    """An attn1_replace that takes each part through ComfyUI's attention, or through what another node gave."""
    tokens = shared.shares[0].content.shape[1]

    def attn1_replace(q, k, v, extra_options):
        heads = extra_options[host.HEADS]

        def attention(q, k, v):
            if replace is not None:
                return replace(q, k, v, extra_options)
            return comfy_attention.optimized_attention(q, k, v, heads, attn_precision=extra_options[host.PRECISION],
                                                       transformer_options=options | extra_options)

        own_values = v[:, :tokens] if shared.own else None
        return attend(split_parts(shared, tokens, heads, Tokens(q, k, v)), tokens, heads, attention, own_values)

    return attn1_replace


def split_parts(shared: Shared, tokens: int, heads: int, projected: Tokens) -> list[Asked]:
    """What `query_inputs` and `key_inputs` have put together, of pictures of so many `tokens`, once it is `projected`.
    """
    parts, own = shared.division.parts, [tokens] if shared.own else []
    counts = own + [share.style.shape[1] for share in shared.shares]
    rest = projected.k.shape[1] - sum(counts)  # the sample of the picture's own
    *keys, k_own = projected.k.split([*counts, rest], 1)
    *values, _ = projected.v.split([*counts, rest], 1)
    queries = projected.q.split([len(part.indices) if part.indices is not None and not shared.whole else tokens
                                 for part in parts], 1)
    asked = []
    for part, q in zip(parts, queries):
        styles = [len(own) + number for number in part.styles]
        sources = [0, *styles] if part.own else styles
        q = shared.sharpened(part, q, k_own, [keys[i] for i in styles], heads)
        asked.append(Asked(part.indices, q, joined([keys[i] for i in sources]), joined([values[i] for i in sources]),
                           [counts[i] for i in sources], shared.priors(part)))
    return asked
