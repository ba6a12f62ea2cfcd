"""Transformers whose picture attends to itself and to the prompt in one sequence.

Their features are queries, keys and values after norm and rotation, side by side: (batch, picture tokens, channels of all three).
Everything happens in ComfyUI's `optimized_attention_override`, which all of them pass.
"""

import math
from collections.abc import Callable, Container
from functools import partial
from typing import NamedTuple

import comfy.model_sampling
import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP

from ....styleid_core.blocks import Block, choose
from ....styleid_core.paths import Flow, ScaledFlow
from ....styleid_core.plan import KeySet, attend, keys, queries
from ....styleid_core.positions import turned
from .layouts import REFERENCES, layout_of
from .positions import POSITIONS, Embedding, placement

NAME = "a transformer (Flux, Chroma, Qwen-Image, Z-Image, Lumina 2, SD 3.5, Krea 2, Cosmos-Predict 2, Anima, Wan)"
WRAPPED = WrappersMP.APPLY_MODEL
IN_LOCKSTEP = True
FIRST = 1 / 4  # of the blocks that "auto" leaves alone


def matches(model: ModelPatcher) -> bool:
    return layout_of(model.model.diffusion_model) is not None


def path(model: ModelPatcher) -> Flow | ScaledFlow:
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, getattr(comfy.model_sampling, "COSMOS_RFLOW", ())):  # not in every ComfyUI
        return ScaledFlow()
    if not isinstance(sampling, CONST):
        raise ValueError("This model is not set to flow matching, along which it would be inverted. Remove the node that changes its "
                         "sampling.")
    return Flow()


def inversion_prompt(model: ModelPatcher, conditioning: list) -> list:
    """At guidance 1 where guidance is distilled: what that adds is not on the model's own path."""
    if not getattr(getattr(model.model.diffusion_model, "params", None), "guidance_embed", False):
        return conditioning
    return [[prompt, entry | {"guidance": 1.0}] for prompt, entry in conditioning]


def blocks(model: ModelPatcher) -> list[Block]:
    network = model.model.diffusion_model
    layout = layout_of(network)
    return [Block(side, number, index) for side, name in layout.sides.items() for number in range(len(getattr(network, name)))
            for index in range(layout.attentions(network, number))]


def select(model: ModelPatcher, text: str) -> list[Block]:
    """"auto" leaves the first quarter alone, which lays the picture out."""
    available = blocks(model)
    return available[math.ceil(FIRST * len(available)):] if text.strip().lower() == "auto" else choose(text, available)


def grid(model: ModelPatcher, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of the tokens of a latent of `size`."""
    network = model.model.diffusion_model
    return tuple(math.ceil(side / layout_of(network).patch(network)) for side in size)


def token_shapes(model: ModelPatcher, blocks: list[Block], size: tuple[int, int]) -> list[tuple[int, int, int]]:
    network = model.model.diffusion_model
    return [(*grid(model, size), 3 * layout_of(network).width(network))] * len(blocks)


def place(model: ModelPatcher, arguments: list, kwargs: dict) -> int:
    """On the first axis of positions, which in some models depends on the prompt."""
    network = model.model.diffusion_model
    return layout_of(network).place(network, arguments[3], kwargs)


def embedding(model: ModelPatcher) -> Embedding | None:
    network = model.model.diffusion_model
    return layout_of(network).embedding(network)


def at_place(model: ModelPatcher, n: torch.Tensor, by: int) -> torch.Tensor:
    if not by:
        return n
    network = model.model.diffusion_model
    rotary, width = embedding(model), layout_of(network).width(network)
    matrices = rotary.at(by, 0, 0).to(n.device)
    q, k, v = n.tensor_split((width, 2 * width), -1)
    return torch.cat([turned(q, matrices, rotary.halves), turned(k, matrices, rotary.halves), v], -1)


class Attention(NamedTuple):
    """A call of ComfyUI's attention to a picture and to what else is in the sequence.

    q, k, v   (batch, tokens, heads, channels), views of what the model computed
    picture   which of the tokens are the picture's
    masks     of the picture's queries and of the others, as ComfyUI's attention takes them, or None
    call      `call(q, k, v, mask)` gives (batch, tokens, heads * channels)
    """
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    picture: slice
    masks: tuple
    call: Callable

    def features(self) -> torch.Tensor:
        """(batch, the picture's tokens, channels of queries, keys and values)."""
        return torch.cat([x[:, self.picture] for x in (self.q, self.k, self.v)], 2).flatten(2)

    def among_others(self, part: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """x, one of q, k and v, with `part` (batch, any, channels) in place of the picture's."""
        return torch.cat([x[:, :self.picture.start], part.unflatten(-1, x.shape[2:]), x[:, self.picture.stop:]], 1)

    def injected(self, plan: list[KeySet], moved: Callable | None) -> torch.Tensor:
        """What comes out for all tokens, of which the picture's attend as in `plan`, to the style's keys as they are `moved`, and the
        others to the picture as it is.
        """
        q, heads = self.q[:, self.picture].flatten(2), self.q.shape[2]
        own = any(part.n_style is None or part.auto for part in plan)
        k, v = (x[:, self.picture].flatten(2) if own else None for x in (self.k, self.v))
        widths = [x.shape[2] * x.shape[3] for x in (self.q, self.k, self.v)]

        def features(i):
            return [part._replace(**{name: n if n is None else n.split(widths, -1)[i] for name, n in (
                ("n_content", part.n_content), ("n_style", part.n_style))}) for part in plan]

        def attention(q, k, v):
            mask = self.masks[0]
            if mask is not None and k.shape[1] != self.picture.stop - self.picture.start:
                mask = torch.cat([mask[..., :self.picture.start],
                                  mask[..., self.picture.start:self.picture.start + 1].expand(*mask.shape[:-1], k.shape[1]),
                                  mask[..., self.picture.stop:]], -1)
            return self.call(q.unflatten(-1, self.q.shape[2:]), self.among_others(k, self.k), self.among_others(v, self.v), mask)

        of_keys = [part._replace(n_style=moved(part.n_style)) if moved and part.n_style is not None else part for part in features(1)]
        out = attend(plan, q.shape[1], heads, queries(features(0), q), keys(of_keys, k), keys(features(2), v), attention)
        before, after = self.q[:, :self.picture.start], self.q[:, self.picture.stop:]
        others = torch.cat([before, after], 1)
        if not others.shape[1]:
            return out
        before, after = self.call(others, self.k, self.v, self.masks[1]).split([before.shape[1], after.shape[1]], 1)
        return torch.cat([before, out, after], 1)


def masks_of(mask: torch.Tensor | None, picture: slice, length: int) -> tuple:
    """(of the picture's queries, of the others) of an attention mask (..., queries or 1, keys); ValueError for one that tells parts of the
    picture apart.
    """
    if mask is None:
        return None, None
    columns = mask[..., picture]
    rows = mask[..., picture, :] if mask.shape[-2] == length else mask
    if not (torch.equal(columns, columns[..., :1].expand_as(columns)) and torch.equal(rows, rows[..., :1, :].expand_as(rows))):
        raise ValueError("Another node masks the attention between parts of the picture, and the style has no such parts. Remove it from "
                         "the model that is sampled.")
    others = torch.cat([mask[..., :picture.start, :], mask[..., picture.stop:, :]], -2) if mask.shape[-2] == length else mask
    return rows[..., :1, :], others


class Place:
    """Tells of each attention of a run which Block it is, by what ComfyUI writes into its transformer_options and by the calls before."""

    def __init__(self):
        self.call, self.block = None, None

    def of(self, options: dict) -> Block | None:
        if "block_index" not in options:
            return None
        here = options.get("block_type", "block"), options["block_index"]
        again = self.call is options and self.block[:2] == here  # every call of the model has options of its own
        self.call, self.block = options, Block(*here, self.block.index + 1 if again else 0)
        return self.block


def put_inside(model: ModelPatcher, options: dict, blocks: Container[Block], size: tuple[int, int],
               attention: Callable[[Block, Attention], torch.Tensor | None]):
    """Let `attention` stand in the place of each of `blocks`, for pictures of a latent of `size`; where it gives None, the call goes on as
    it was. What another node has put there is what both call.
    """
    network, before, place = model.model.diffusion_model, options.get("optimized_attention_override"), Place()
    layout, tokens = layout_of(network), math.prod(grid(model, size))

    def override(func, q, k, v, heads, mask=None, skip_reshape=False, skip_output_reshape=False, **kwargs):
        proceed = func if before is None else partial(before, func)
        call_options = kwargs.get("transformer_options") or {}
        block, out = place.of(call_options), None
        axis, length = (2, q.shape[2]) if skip_reshape else (1, q.shape[1])
        end = length - layout.behind(network, call_options, tokens)
        if block in blocks and end >= tokens and k.shape[axis] == length:
            def call(q, k, v, mask):
                return proceed(*(x.transpose(1, 2) for x in (q, k, v)), heads, mask=mask, skip_reshape=True, **kwargs)

            channels, picture = (q.shape[-1] if skip_reshape else q.flatten(2).shape[-1] // heads), slice(end - tokens, end)
            whole = (x.transpose(1, 2) if skip_reshape else x.flatten(2).unflatten(-1, (-1, channels)) for x in (q, k, v))
            out = attention(block, Attention(*whole, picture, masks_of(mask, picture, length), call))
        if out is None:
            return proceed(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, skip_output_reshape=skip_output_reshape, **kwargs)
        return out.unflatten(-1, (heads, -1)).transpose(1, 2) if skip_output_reshape else out

    options["optimized_attention_override"] = override
    if not layout.named:
        name_blocks(options, len(getattr(network, *layout.sides.values())))


def name_blocks(options: dict, count: int):
    """Let ComfyUI tell attention the block that it is in, as it does in other models."""
    replacements = options.get("patches_replace", {})
    named = replacements.get("dit", {}).copy()
    for number in range(count):
        named["double_block", number] = partial(run_named, number, named.get(("double_block", number)))
    options["patches_replace"] = replacements | {"dit": named}


def run_named(number: int, replacement: Callable | None, args: dict, extra: dict) -> dict:
    args = args | {"transformer_options": args["transformer_options"] | {"block_type": "double", "block_index": number}}
    return replacement(args, extra) if replacement else extra["original_block"](args)


def record(model: ModelPatcher, options: dict, blocks: list[Block], seen: dict[Block, torch.Tensor], shape: tuple[int, int, int]):
    def attention(block, call):
        seen[block] = call.features()

    put_inside(model, options, blocks, shape[1:], attention)


def inject(options: dict, injection):
    model, size = injection.model, injection.styles[0].content.size
    moved = placement(embedding(model), options.get(POSITIONS), grid(model, size), model.load_device)

    def attention(block, call):
        if injection.at is None:
            return None
        injection.reached[block] = True
        plan = injection.plan(block)
        works_on = call.picture.stop - call.picture.start, sum(x.shape[2] * x.shape[3] for x in (call.q, call.k, call.v))
        for part in plan:
            if part.n_style is not None and (part.n_content.shape[1:] != works_on or part.n_style.shape[-1] != works_on[1]):
                raise ValueError(f"The self-attention of {block.side} block {block.number} works on {list(works_on)} (tokens, channels), "
                                 f"which does not fit content_features {list(part.n_content.shape)} and style_features "
                                 f"{list(part.n_style.shape)} (batch, tokens, channels). Capture them with the model that samples.")
        return call.injected(plan, moved) if plan else None

    put_inside(model, options, injection.blocks, size, attention)


def call_options(model: ModelPatcher, options: dict, kwargs: dict, injection=None) -> dict:
    """A copy, as some models write into theirs which block is at work; with the tokens of the reference latents, which not all tell."""
    return options | {REFERENCES: [math.prod(grid(model, latent.shape[-2:])) for latent in kwargs.get("ref_latents") or ()]}
