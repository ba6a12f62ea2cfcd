"""Transformers whose picture attends to itself and to the prompt in one sequence.

Their features are Tokens. All of it is done in ComfyUI's `optimized_attention_override`, which every attention of these
models calls.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from comfy.patcher_extension import WrappersMP
from torch.nn.functional import pad

from ....styleid_core.attend import Asked, Part, Shared, attend, joined
from ....styleid_core.blocks import Block, choose
from ....styleid_core.features import Tokens
from ....styleid_core.paths import Flow, ScaledFlow
from ....styleid_core.positions import turned
from .. import host
from ..call import CALL, Call
from .layouts import REFERENCES, layout_of
from .positions import POSITIONS, Embedding, key_move

NAME = "a transformer (Flux, Chroma, Qwen-Image, Z-Image, Lumina 2, SD 3.5, Krea 2, Cosmos-Predict 2, Anima, Wan)"
WRAPPED = WrappersMP.APPLY_MODEL
IN_LOCKSTEP = True
TENSORS = 3
LEAST_GAMMA = 0.0
FIRST = 1 / 4  # of the blocks, which "auto" leaves alone
COUNTER = "styleid_counter"  # among transformer_options


def matches(model: ModelPatcher) -> bool:
    return layout_of(model.model.diffusion_model) is not None


def path(model: ModelPatcher) -> Flow | ScaledFlow:
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, host.SCALED_FLOW):
        return ScaledFlow()
    if not isinstance(sampling, CONST):
        raise ValueError("This model is not set to flow matching, along which it would be inverted. Remove the node "
                         "that changes its sampling.")
    return Flow()


def inversion_prompt(model: ModelPatcher, conditioning: list) -> list:
    """With guidance 1 if guidance is distilled: higher guidance leaves the model's own path."""
    if not getattr(getattr(model.model.diffusion_model, "params", None), "guidance_embed", False):
        return conditioning
    return [[prompt, entry | {"guidance": 1.0}] for prompt, entry in conditioning]


def blocks(model: ModelPatcher) -> list[Block]:
    network = model.model.diffusion_model
    layout = layout_of(network)
    return [Block(side, number, index)
            for side, name in layout.sides.items()
            for number in range(len(getattr(network, name)))
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
    return [(*grid(model, size), TENSORS * layout_of(network).width(network))] * len(blocks)


def position(model: ModelPatcher, arguments: list, kwargs: dict) -> int:
    """On the first axis, which in some models depends on the prompt."""
    network, prompt = model.model.diffusion_model, arguments[3]
    return layout_of(network).position(network, prompt, kwargs)


def embedding(model: ModelPatcher) -> Embedding | None:
    network = model.model.diffusion_model
    return layout_of(network).embedding(network)


def as_captured(kept: torch.Tensor | Tokens) -> Tokens:
    """In files of version 1 the three are one tensor, side by side."""
    return kept if isinstance(kept, Tokens) else Tokens(*kept.chunk(3, -1))


def moved(model: ModelPatcher, tokens: Tokens, by: int) -> Tokens:
    if not by:
        return tokens
    rotary = embedding(model)
    matrices = rotary.at(by, 0, 0).to(tokens.q.device)
    return Tokens(turned(tokens.q, matrices, rotary.halves), turned(tokens.k, matrices, rotary.halves), tokens.v)


class Attention(NamedTuple):
    """A call of ComfyUI's attention to a picture and to what else is in the sequence.

    q, k, v   (batch, tokens, heads, channels), views of what the model computed; k and v may have fewer heads
    picture   which of the tokens are the picture's
    mask      as ComfyUI's attention takes it, or None
    original  the attention below ours: `original(q, k, v, mask)` gives (batch, tokens, heads * channels)
    """
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    picture: slice
    mask: torch.Tensor | None
    original: Callable

    @property
    def tokens(self) -> int:
        """Of the picture."""
        return self.picture.stop - self.picture.start

    def of_picture(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, the picture's tokens, heads * channels) of q, k or v."""
        return x[:, self.picture].flatten(2)

    def among_others(self, part: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """x, one of k and v, with `part` (batch, any, heads * channels) in place of the picture's.

        Where the part has more channels, these are 0 in the others.
        """
        part = part.unflatten(-1, (x.shape[2], -1))
        more = part.shape[-1] - x.shape[-1]
        others = [x[:, :self.picture.start], x[:, self.picture.stop:]]
        before, after = [pad(each, (0, more)) for each in others] if more else others
        return torch.cat([before, part, after], 1)

    def injected(self, shared: Shared, move: Callable | None, masks: "Masks") -> torch.Tensor:
        """The output of all tokens. Those of the picture attend as `shared` says, to style keys that `move` has moved.
        The others attend to the picture as before.
        """
        heads = self.q.shape[2]

        def attention(q, k, v):
            q, all_k, all_v = q.unflatten(-1, (heads, -1)), self.among_others(k, self.k), self.among_others(v, self.v)
            return self.original(q, all_k, all_v, masks.for_keys(k.shape[1]))

        moved = [share.style.k if move is None else move(share.style.k) for share in shared.shares]
        asked = [self.asked(shared, part, moved) for part in shared.division.parts]
        out = attend(asked, self.tokens, heads, attention)
        before, after = self.q[:, :self.picture.start], self.q[:, self.picture.stop:]
        others = torch.cat([before, after], 1)
        if not others.shape[1]:
            return out
        of_others = self.original(others, self.k, self.v, masks.of_others)
        before, after = of_others.split([before.shape[1], after.shape[1]], 1)
        return torch.cat([before, out, after], 1)

    def asked(self, shared: Shared, part: Part, style_keys: list[torch.Tensor]) -> Asked:
        """What a part of the picture's queries asks; `style_keys` are those of all styles, where they have been moved.
        """
        k, v = [style_keys[number] for number in part.styles], [shared.shares[i].style.v for i in part.styles]
        q, k_own = shared.mixed(part, self.of_picture(self.q)), self.of_picture(self.k)
        q = shared.sharpened(part, q, k_own, k, self.q.shape[2])
        if part.own:
            k, v = [k_own, *k], [self.of_picture(self.v), *v]
        counts = [each.shape[1] for each in k]
        return Asked(part.indices, q, joined(k), joined(v), counts, shared.priors(part))


class Masks(NamedTuple):
    """An attention mask (..., queries or 1, keys) split: what the picture's queries see, and the others'.

    even   whether it treats all of the picture alike, as a style needs: on the mask's device; None without a mask
    """
    picture: slice
    of_picture: torch.Tensor | None = None
    of_others: torch.Tensor | None = None
    even: torch.Tensor | None = None

    def for_keys(self, count: int) -> torch.Tensor | None:
        """What the picture's queries see where so many keys are in the place of its own."""
        mask, start, stop = self.of_picture, self.picture.start, self.picture.stop
        if mask is None or count == stop - start:
            return mask
        of_style = mask[..., start:start + 1].expand(*mask.shape[:-1], count)
        return torch.cat([mask[..., :start], of_style, mask[..., stop:]], -1)


def masks_of(mask: torch.Tensor | None, picture: slice, length: int) -> Masks:
    if mask is None:
        return Masks(picture)
    columns, by_query = mask[..., picture], mask.shape[-2] == length
    rows = mask[..., picture, :] if by_query else mask
    others = torch.cat([mask[..., :picture.start, :], mask[..., picture.stop:, :]], -2) if by_query else mask
    even = (columns == columns[..., :1]).all() & (rows == rows[..., :1, :]).all()
    return Masks(picture, rows[..., :1, :], others, even)


class Counter:
    """Tells which Block each attention of one model call is: ComfyUI gives side and number, repeats give the index."""

    def __init__(self):
        self.last = Block("", -1, -1)

    def block(self, options: dict) -> Block | None:
        if host.BLOCK_INDEX not in options:
            return None
        side, number = options.get(host.BLOCK_TYPE, "block"), options[host.BLOCK_INDEX]
        again = (side, number) == (self.last.side, self.last.number)
        self.last = Block(side, number, self.last.index + 1 if again else 0)
        return self.last


def put_inside(model: ModelPatcher, options: dict, size: tuple[int, int],
               attention_of: Callable[[Block, dict], Callable[[Attention], torch.Tensor | None] | None]):
    """Let `attention_of(block, options of the call)` stand in the place of self-attentions, for pictures of a latent of
    `size`; if it gives None, or its result does, the attention goes on unchanged. Both ways go through another node's
    override, if there is one.
    """
    network, before = model.model.diffusion_model, options.get(host.OVERRIDE)
    layout, tokens = layout_of(network), math.prod(grid(model, size))

    def override(func, q, k, v, heads, mask=None,  # noqa: PLR0913  ComfyUI's
                 skip_reshape=False, skip_output_reshape=False, **kwargs):
        proceed = func if before is None else partial(before, func)
        call_options = kwargs.get(host.TRANSFORMER_OPTIONS) or {}
        counter = call_options.get(COUNTER)
        block, out = counter and counter.block(call_options), None
        axis, length = (2, q.shape[2]) if skip_reshape else (1, q.shape[1])
        end = length - layout.behind(network, call_options, tokens)
        inside = block and end >= tokens and k.shape[axis] == length and attention_of(block, call_options)
        if inside:
            def attend_to(q, k, v, mask):
                return proceed(*(x.transpose(1, 2) for x in (q, k, v)), heads, mask=mask, skip_reshape=True, **kwargs)

            def by_heads(x):
                return x.transpose(1, 2) if skip_reshape else x.flatten(2).unflatten(-1, (-1, channels))

            channels = q.shape[-1] if skip_reshape else q.flatten(2).shape[-1] // heads
            out = inside(Attention(by_heads(q), by_heads(k), by_heads(v), slice(end - tokens, end), mask, attend_to))
        if out is None:
            return proceed(q, k, v, heads, mask=mask, skip_reshape=skip_reshape,
                           skip_output_reshape=skip_output_reshape, **kwargs)
        return out.unflatten(-1, (heads, -1)).transpose(1, 2) if skip_output_reshape else out

    override.of_styleid = True
    options[host.OVERRIDE] = override
    if not layout.named:
        name_blocks(options, len(getattr(network, *layout.sides.values())))


def name_blocks(options: dict, count: int):
    """Let ComfyUI tell attention the block that it is in, as it does in other models."""
    replacements = options.get(host.REPLACEMENTS, {})
    named = replacements.get(host.TRANSFORMER, {}).copy()
    for number in range(count):
        named["double_block", number] = partial(run_named, number, named.get(("double_block", number)))
    options[host.REPLACEMENTS] = replacements | {host.TRANSFORMER: named}


def run_named(number: int, replacement: Callable | None, args: dict, extra: dict) -> dict:
    options = args[host.TRANSFORMER_OPTIONS] | {host.BLOCK_TYPE: "double", host.BLOCK_INDEX: number}
    args = args | {host.TRANSFORMER_OPTIONS: options}
    return replacement(args, extra) if replacement else extra["original_block"](args)


def above(options: dict) -> str | None:
    """The name of what another node has put on top of ours since the run began."""
    override = options.get(host.OVERRIDE)
    if override is None or getattr(override, "of_styleid", False):
        return None
    kind = override if hasattr(override, "__qualname__") else type(override)
    return f"{kind.__module__}.{kind.__qualname__}"


def record(model: ModelPatcher, options: dict, blocks: list[Block], seen: dict[Block, Tokens],
           shape: tuple[int, int, int]):
    def keep(block, attention):
        seen[block] = Tokens(*map(attention.of_picture, (attention.q, attention.k, attention.v)))

    put_inside(model, options, shape[1:], lambda block, call_options: partial(keep, block) if block in blocks else None)


def inject(model: ModelPatcher, options: dict, blocks: list[Block], size: tuple[int, int]):
    move = key_move(embedding(model), options.get(POSITIONS), grid(model, size), model.load_device)

    def attention_of(block, call_options):
        call = call_options.get(CALL)
        return partial(share, call, block) if call is not None and block in blocks else None

    def share(call, block, attention):
        call.reached[block] = True
        shared = call.shared(block)
        if shared is None:
            return None
        check_shapes(block, attention, shared)
        masks = masks_of(attention.mask, attention.picture, attention.q.shape[1])
        if masks.even is not None:
            call.check_later(masks.even)
        return attention.injected(shared, move, masks)

    put_inside(model, options, size, attention_of)


def check_shapes(block: Block, attention: Attention, shared: Shared):
    works_on = [x.shape[2] * x.shape[3] for x in (attention.q, attention.k, attention.v)]
    for share in shared.shares:
        content, style = list(share.content.shape[1:]), [each.shape[-1] for each in share.style]
        if content != [attention.tokens, works_on[0]] or style != works_on:
            raise ValueError(f"The self-attention of {block.side} block {block.number} works on {attention.tokens} "
                             f"tokens of {works_on} channels (queries, keys, values), which does not fit the queries "
                             f"of content_features {content} and the style_features' {style}. Capture them with the "
                             "model that samples.")


def for_call(model: ModelPatcher, options: dict, kwargs: dict, call: Call | None = None) -> dict:
    """A copy, as some models write into theirs, with the token counts of references, which some do not tell."""
    references = [math.prod(grid(model, latent.shape[-2:])) for latent in kwargs.get(host.CALL_REFERENCES) or ()]
    return options | {REFERENCES: references, COUNTER: Counter(), CALL: call}
