"""What comes out of one self-attention in which styles have a share.

Each style has a prior w_i for every query token of the picture, and the picture's own keys have the rest of 1. Own and
style keys stand beside each other in one softmax, asked by one query:

    q   = sum_i w_i mix_i(q_own) / sum_i w_i
    out = softmax([q k_own + ln(1 - sum_i w_i), q k_1 + ln(w_1), ...]) [v_own, v_1, ...]

A query that finds nothing in a style keeps its own (docs/recipes.md says whose idea that is). One style that has all of
a token is StyleID (Chung et al., arXiv 2312.09008, eq. 4-7); a token without any style is the model's. A UNet mixes
before its projections, see `attention`: what gives queries and keys is joined, projected once, and split again.
"""

from collections.abc import Callable
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from .attention import mix_query_input
from .features import Tokens

LEAST_WEIGHT = 1e-6  # of a token's prior; less is what rounding leaves
NEVER = -1e3  # for ln(0), as attention multiplies it by 0 too
CHANNELS = 8  # heads of a multiple of so many are quick everywhere
AUTO_RANGE = (1.0, 3.0)  # of a temperature that finds itself
QUERIES, KEYS = 64, 256  # `temperatures` measures on about so many


class Part(NamedTuple):
    """Query tokens of the picture that ask the same keys.

    indices  of the tokens; None: all
    own      whether they ask the picture's own keys
    styles   which of the styles they ask, by number
    """
    indices: Tensor | None
    own: bool
    styles: tuple[int, ...]

    def of(self, tokens: Tensor) -> Tensor:
        """Its own of all `tokens` (batch, tokens, channels)."""
        return tokens if self.indices is None else tokens[:, self.indices]


class Division(NamedTuple):
    """Which tokens ask which keys, and how much each source of keys counts.

    parts   each token is in one of them
    own     prior (batch or 1, tokens, 1) of the picture's own keys; None where no part needs priors
    styles  the same of each style; the sum of all is 1
    """
    parts: list[Part]
    own: Tensor | None
    styles: list[Tensor | None]


class Share(NamedTuple):
    """Of one style, at one self-attention in one model call.

    content     (batch, tokens, channels) that is mixed into the queries: n of a UNet, queries of a transformer
    style       what gives keys and values: n (batch, keys, channels), or Tokens
    gamma, tau  as in `attention.mix_query_input`
    auto        whether the queries are multiplied by `temperatures` too
    """
    content: Tensor
    style: Tensor | Tokens
    gamma: float | Tensor = 0.0
    tau: float | Tensor = 1.0
    auto: bool = False


class Shared(NamedTuple):
    """What one self-attention attends to. If `whole`, each part asks with all tokens, and gets those that are its own.
    """
    division: Division
    shares: list[Share]
    whole: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether all of every token goes to one style, so that its attention is the model's own with other inputs."""
        [part, *others] = self.division.parts
        return not (others or part.own or len(part.styles) > 1 or self.measured or self.whole)

    @property
    def own(self) -> bool:
        """Whether the picture's own keys and values are needed."""
        return self.whole or any(part.own for part in self.division.parts)

    @property
    def measured(self) -> bool:
        """Whether a sample of the picture's own keys is needed for `temperatures`."""
        return any(share.auto for share in self.shares)

    def asking(self, part: Part) -> Part:
        """The part with the tokens that ask."""
        return part._replace(indices=None) if self.whole else part

    def mixed(self, part: Part, queries: Tensor) -> Tensor:
        """The part's `queries` (batch, tokens, channels), of a UNet what gives them, with the content mixed in."""
        part = self.asking(part)
        own, shares = part.of(queries), [self.shares[number] for number in part.styles]
        return self.mean(part, [mix_query_input(own, part.of(share.content), share.gamma, share.tau)
                                for share in shares], own)

    def sharpened(self, part: Part, queries: Tensor, k_own: Tensor, keys: list[Tensor], heads: int) -> Tensor:
        """The part's projected `queries`, multiplied by `temperatures`. These are measured on the sample `k_own`
        (batch, any, channels) and on the `keys` of the part's styles.
        """
        shares = [self.shares[number] for number in part.styles]
        if not any(share.auto for share in shares):
            return queries
        one = queries.new_ones(1)
        factors = [temperatures(queries, k_own, k, heads).to(queries) if share.auto else one
                   for share, k in zip(shares, keys)]
        return queries * self.mean(self.asking(part), factors, one)

    def mean(self, part: Part, values: list[Tensor], without: Tensor) -> Tensor:
        """The mean of each style's `values` by their priors; `without` for tokens that no style has. They are in a part
        with styles where the same token of another picture has one.
        """
        if not values:
            return without
        if not part.own and len(values) == 1:
            return values[0]
        priors = [part.of(self.division.styles[number]).to(values[0]) for number in part.styles]
        total = sum(priors)
        mean = values[0] if len(values) == 1 else sum(map(torch.mul, priors, values)) / total.clamp(min=LEAST_WEIGHT)
        return torch.where(total > LEAST_WEIGHT, mean, without)

    def priors(self, part: Part) -> list[Tensor]:
        """(batch or 1, tokens, 1) for each source of keys that the part asks; none where it asks only one."""
        priors = [self.division.own] if part.own else []
        priors += [self.division.styles[number] for number in part.styles]
        return [self.asking(part).of(prior) for prior in priors] if len(priors) > 1 else []


def divided(weights: list[Tensor]) -> Division | None:
    """By the weights (batch or 1, tokens, 1) of the styles; None if no style has any, so that attention is left alone.

    Weights that sum above 1 are divided by their sum.
    """
    if len(weights) == 1 and torch.all(weights[0] >= 1):
        return Division([Part(None, False, (0,))], None, [None])
    weights = torch.broadcast_tensors(*weights)
    total = sum(weights)
    own, styles = (1 - total).clamp(min=0), [weight / total.clamp(min=1) for weight in weights]
    asks = torch.stack([(prior > LEAST_WEIGHT).any(0).flatten() for prior in [own, *styles]], 1)
    if not asks[:, 1:].any():
        return None
    kinds, kind_of = asks.unique(dim=0, return_inverse=True)
    parts = []
    for kind, (asks_own, *asks_style) in enumerate(kinds.tolist()):
        indices = None if len(kinds) == 1 else (kind_of == kind).nonzero().flatten()
        parts.append(Part(indices, asks_own, tuple(i for i, asked in enumerate(asks_style) if asked)))
    return Division(parts, own, styles)


class Asked(NamedTuple):
    """Projected queries of one part, and the keys and values that they ask: (batch, any, heads * channels) each.

    indices  of the part's tokens; None: all
    counts   how many of the keys each source has
    priors   as `Shared.priors`
    """
    indices: Tensor | None
    q: Tensor
    k: Tensor
    v: Tensor
    counts: list[int]
    priors: list[Tensor]


def attend(asked: list[Asked], tokens: int, heads: int, attention: Callable[[Tensor, Tensor, Tensor], Tensor],
           own_values: Tensor | None = None) -> Tensor:
    """(batch, tokens, heads * channels) of all parts; `attention(q, k, v)` is called once for each.

    Perturbed attention (PAG) gives v itself. `own_values` then take its place, so that each token gets its own.
    """
    out = None
    for part in asked:
        q, k, v = with_priors(part, heads) if part.priors else (part.q, part.k, part.v)
        attended = attention(q, k, v)
        if attended is v and own_values is not None:
            attended = own_values
        elif part.priors:
            attended = attended.unflatten(-1, (heads, -1))[..., :part.q.shape[-1] // heads].flatten(2)
        if part.indices is None:
            return attended
        if attended.shape[1] == tokens:
            attended = attended[:, part.indices]
        if out is None:
            out = attended.new_zeros(len(attended), tokens, attended.shape[-1])
        out = out.index_copy(1, part.indices, attended)
    return out


def joined(parts: list[Tensor]) -> Tensor:
    """Tokens (batch, any, channels) one after the other."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def with_priors(asked: Asked, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values in wider heads, over which plain attention has the priors.

    One more channel for each source holds ln(prior) in the queries, and 1 in the keys of that source. So there is no
    mask of queries x keys, which would shut fast attention out.
    """
    channels, sources = asked.q.shape[-1] // heads, len(asked.priors)
    wide = CHANNELS * ceil((channels + sources) / CHANNELS)
    q, k, v = (x.unflatten(-1, (-1, channels)) for x in (asked.q, asked.k, asked.v))
    # Attention divides by the root of the channels.
    logits = wide ** 0.5 * torch.cat(asked.priors, -1).log().clamp(min=NEVER).to(q)
    ones = torch.eye(sources, device=k.device, dtype=k.dtype)
    of_source = torch.cat([one.expand(count, -1) for one, count in zip(ones, asked.counts)])
    q = torch.cat([(wide / channels) ** 0.5 * q, logits[:, :, None].expand(*q.shape[:3], -1)], -1)
    k = torch.cat([k, of_source[None, :, None].expand(*k.shape[:3], -1)], -1)
    return tuple(pad(x, (0, wide - x.shape[-1])).flatten(2) for x in (q, k, v))


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
