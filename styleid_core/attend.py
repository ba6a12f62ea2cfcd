"""What comes out of one self-attention in which styles have a share.

    out = own.weight * attention(own.q, own.k, own.v)
    for s in shares: out += s.weight * attention(mix(own.q, s), s.k, s.v)

for each query token of the picture, where s.k and s.v come from one style only. One style that has all of every token
is StyleID (Chung et al., arXiv 2312.09008, eq. 4-7). A UNet mixes before its projections, see `attention`: the inputs
of all parts are joined, projected once, and split again.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import mix_query_input
from .features import Tokens

LEAST_WEIGHT = 1e-6  # of a token's output; less is what rounding leaves
AUTO_RANGE = (1.0, 3.0)  # of a temperature that finds itself
QUERIES, KEYS = 64, 256  # `temperatures` measures on about so many


class Part(NamedTuple):
    """Says which tokens of the picture's output a part has, and how much of each.

    weight   (batch or 1, tokens, 1) of each token's; None: all of every token
    indices  of the tokens that have one; None: all tokens
    """
    weight: Tensor | None = None
    indices: Tensor | None = None

    def of(self, tokens: Tensor) -> Tensor:
        """Those of `tokens` (batch, tokens, channels) that have a weight."""
        return tokens if self.indices is None else tokens[:, self.indices]


class Share(NamedTuple):
    """Of one style, at one self-attention in one model call.

    part        of the picture's output
    content     (batch, tokens, channels) that is mixed into the queries: n of a UNet, queries of a transformer
    style       what gives keys and values: n (batch, keys, channels), or Tokens
    gamma, tau  as in `attention.mix_query_input`
    auto        whether the queries are multiplied by `temperatures` too
    """
    part: Part
    content: Tensor
    style: Tensor | Tokens
    gamma: float | Tensor = 0.0
    tau: float | Tensor = 1.0
    auto: bool = False

    def mixed(self, queries: Tensor) -> Tensor:
        """Mixes the content into this part's `queries` (batch, tokens, channels), of a UNet into what gives them."""
        return mix_query_input(self.part.of(queries), self.part.of(self.content), self.gamma, self.tau)


class Shared(NamedTuple):
    """What one self-attention attends to: the picture's `own` keys, where anybody asks for them, and styles'."""
    own: Part | None
    shares: list[Share]

    @property
    def is_plain(self) -> bool:
        """Whether all of every token goes to one style, so that its attention is the model's own with other inputs."""
        [first, *others] = self.shares
        return self.own is None and not others and first.part.weight is None and not first.auto

    @property
    def measured(self) -> bool:
        """Whether a sample of the picture's own keys is needed for `temperatures`."""
        return any(share.auto for share in self.shares)


def divided(weights: list[Tensor]) -> list[Part | None]:
    """The parts of the picture's own keys and then of each style, by the weights (batch or 1, tokens, 1) of the styles.

    A part is None if no token uses it. All are None if no style has a weight: attention is then left alone. Weights
    that sum above 1 are divided by their sum.
    """
    if len(weights) == 1 and torch.all(weights[0] >= 1):
        return [None, Part()]
    weights = torch.broadcast_tensors(*weights)
    total = sum(weights)
    parts = []
    for weight in [(1 - total).clamp(min=0), *(weight / total.clamp(min=1) for weight in weights)]:
        indices = (weight > LEAST_WEIGHT).any(0).flatten().nonzero().flatten()
        parts.append(Part(weight, None if len(indices) == weight.shape[1] else indices) if len(indices) else None)
    return parts if any(parts[1:]) else [None] * len(parts)


class Asked(NamedTuple):
    """Projected queries, keys and values (batch, any, channels) of one part, ready to be attended."""
    part: Part
    q: Tensor
    k: Tensor
    v: Tensor


def attend(asked: list[Asked], tokens: int, attention: Callable[[Tensor, Tensor, Tensor], Tensor],
           own_values: Tensor | None = None) -> Tensor:
    """The sum over the parts: (batch, tokens, channels); `attention(q, k, v)` is called for each that has queries.

    Perturbed attention (PAG) gives v itself. `own_values` then take its place, so that each token gets its own.
    """
    out = None
    for part, q, k, v in asked:
        if not q.shape[1]:
            continue
        attended = attention(q, k, v)
        if attended is v and own_values is not None:
            attended = part.of(own_values)
        if part.weight is not None:
            attended = attended * part.of(part.weight).to(attended)
        if part.indices is None:
            out = attended if out is None else out + attended
        else:
            if out is None:
                out = attended.new_zeros(len(attended), tokens, attended.shape[-1])
            out = out.index_add_(1, part.indices, attended)
    return out


def sharpened(asked: Asked, k_own: Tensor, heads: int) -> Asked:
    """Multiplies the queries by `temperatures`, measured on the sample `k_own` (batch, any, channels)."""
    return asked._replace(q=asked.q * temperatures(asked.q, k_own, asked.k, heads).to(asked.q))


def spread(tokens: Tensor, count: int) -> Tensor:
    """About so many of the tokens (batch, tokens, channels), from all over the picture."""
    return tokens[:, ::max(tokens.shape[1] // count, 1)]


def temperatures(q: Tensor, k_own: Tensor, k_style: Tensor, heads: int) -> Tensor:
    """(batch, 1, channels): a factor on q for each head, within AUTO_RANGE. It makes the logits over the style's keys
    deviate as those over the picture's own keys, measured on some of both.

    The paper fixes 1.5 for this reason. Where keys have fewer heads, each serves several of the queries'.
    """
    width = q.shape[-1] // heads
    q, *keys = (spread(x, count).unflatten(-1, (-1, width)).transpose(1, 2).float() for x, count in (
        (q, QUERIES), (k_own, KEYS), (k_style, KEYS)))
    keys = [k if k.shape[1] == heads else k.repeat_interleave(heads // k.shape[1], 1) for k in keys]
    own, style = ((q @ k.mT).var(-1).mean(-1) for k in keys)
    factor = (own / style.clamp_min(1e-12)).sqrt().clamp(*AUTO_RANGE)
    return factor.repeat_interleave(width, 1)[:, None]
