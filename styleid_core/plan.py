"""What the queries of one self-attention attend to in a model call: key sets, each with a softmax and a part of the picture.

    out_i = (1 - sum_k w_k(i)) A_own(i) + sum_k w_k(i) A_k(i)

for the styles k and the query tokens i, where A_k attends to the keys of style k alone. One style that has all of every token is StyleID
(eq. 4-7). All happens at the input of the projections, see `attention`: the queries of all sets go through them one after the other, as
do their keys, and `attend` takes them apart again.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .attention import mix_query_input

LEAST_SHARE = 1e-6  # of a token's output; less is what rounding leaves
AUTO_RANGE = (1.0, 3.0)  # of a temperature that finds itself
QUERIES, KEYS = 64, 256  # it is measured on about so many


class KeySet(NamedTuple):
    """The keys of one style, or the picture's own, and who attends to them.

    share      (batch or 1, tokens, 1) of each token's output; None: all of every token
    rows       indices of the tokens that have one; None: all tokens
    n_style    (batch, keys, channels) that gives keys and values; None: the picture's own
    n_content  (batch, tokens, channels) that is mixed into the queries, as gamma and tau say; None: they stay as they are
    auto       whether tau is multiplied by `temperatures`
    """
    share: Tensor | None = None
    rows: Tensor | None = None
    n_style: Tensor | None = None
    n_content: Tensor | None = None
    gamma: float | Tensor = 0.0
    tau: float | Tensor = 1.0
    auto: bool = False


def parts(weights: list[Tensor]) -> list[tuple[Tensor | None, Tensor | None] | None]:
    """(share, rows) as in `KeySet` of the picture's own keys and then of each style, by the weights (batch or 1, tokens, 1) of the styles.

    None for a set that nobody attends to, and for all of them where no style has a weight. Where weights sum above 1 they are divided by
    their sum.
    """
    if len(weights) == 1 and torch.all(weights[0] >= 1):
        return [None, (None, None)]
    weights = torch.broadcast_tensors(*weights)
    total = sum(weights)
    shares = [(1 - total).clamp(min=0), *(weight / total.clamp(min=1) for weight in weights)]
    found = []
    for share in shares:
        rows = (share > LEAST_SHARE).any(0).flatten().nonzero().flatten()
        found.append((share, None if len(rows) == share.shape[1] else rows) if len(rows) else None)
    return found if any(found[1:]) else [None] * len(found)


def is_plain(plan: list[KeySet]) -> bool:
    """Whether all of every token goes to one set, so that its attention is the model's own with other inputs."""
    return len(plan) == 1 and plan[0].share is None and not plan[0].auto


def some(tokens: Tensor, rows: Tensor | None) -> Tensor:
    return tokens if rows is None else tokens[:, rows]


def inputs(plan: list[KeySet], n: Tensor) -> tuple[Tensor, Tensor]:
    """(queries, keys and values) as the projections get them, both (batch, any, channels), in place of n (batch, tokens, channels)."""
    return queries(plan, n), keys(plan, n)


def queries(plan: list[KeySet], n: Tensor) -> Tensor:
    """Of all sets, in place of n."""
    return joined([some(n, part.rows) if part.n_content is None else
                   mix_query_input(some(n, part.rows), some(part.n_content, part.rows), part.gamma, part.tau) for part in plan])


def keys(plan: list[KeySet], n: Tensor) -> Tensor:
    """What gives keys and values of all sets, in place of n."""
    own = [spread(n, KEYS)] if any(part.auto for part in plan) else []  # what the picture's own would be
    return joined([n if part.n_style is None else part.n_style for part in plan] + own)


def joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def spread(tokens: Tensor, count: int) -> Tensor:
    """About so many of the tokens (batch, tokens, channels), from all over the picture."""
    return tokens[:, ::max(tokens.shape[1] // count, 1)]


def temperatures(q: Tensor, k_own: Tensor, k_style: Tensor, heads: int) -> Tensor:
    """(batch, 1, channels): for each head the factor on q that gives its logits over the style's keys the deviation that they would have
    over the picture's own, measured on some of both, and within AUTO_RANGE. Of the paper's fixed 1.5 it is the reason that the paper gives.
    """
    q, *keys = (spread(x, count).unflatten(-1, (heads, -1)).transpose(1, 2).float() for x, count in (
        (q, QUERIES), (k_own, KEYS), (k_style, KEYS)))
    own, style = ((q @ k.mT).var(-1).mean(-1) for k in keys)
    factor = (own / style.clamp_min(1e-12)).sqrt().clamp(*AUTO_RANGE)
    return factor.repeat_interleave(q.shape[-1], 1)[:, None]


def attend(plan: list[KeySet], tokens: int, heads: int, q: Tensor, k: Tensor, v: Tensor,
           attention: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
    """out (batch, tokens, channels) of projected `queries` and `keys`; `attention(q, k, v)` is called for each set.

    A perturbed attention (PAG) hands the values on, so that every token attends to itself: those are then the picture's own, which has to
    be the first set.
    """
    queries = q.split([tokens if part.rows is None else len(part.rows) for part in plan], 1)
    counts = [tokens if part.n_style is None else part.n_style.shape[1] for part in plan]
    counts.append(k.shape[1] - sum(counts))
    *keys, k_own = k.split(counts, 1)
    out, own = None, v[:, :tokens]
    for part, query, key, value in zip(plan, queries, keys, v.split(counts, 1)):
        if not query.shape[1]:
            continue
        if part.auto:
            query = query * temperatures(query, k_own, key, heads).to(query)
        attended = attention(query, key, value)
        attended = some(own, part.rows) if attended is value else attended
        if part.share is not None:
            attended = attended * some(part.share, part.rows).to(attended)
        if out is None:
            out = attended if part.rows is None else attended.new_zeros(len(q), tokens, q.shape[-1]).index_copy_(1, part.rows, attended)
        else:
            out = out + attended if part.rows is None else out.index_add_(1, part.rows, attended)
    return out
