"""StyleID's attention as the paper writes it (eq. 5-7), and with the picture's own keys beside the style's, on
projected q, k and v: what the tests and the bench compare with.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn.functional import adaptive_avg_pool2d


def by_head(x: torch.Tensor, heads: int) -> torch.Tensor:
    """(batch, heads, tokens, channels / heads) of (batch, tokens, channels)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v of (batch, tokens, channels)."""
    q, k, v = (by_head(x, heads) for x in (q, k, v))
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


class Attended(NamedTuple):
    """Queries, keys and values (batch, tokens, channels)."""
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def style_query(q, q_content, gamma: float, tau: float) -> torch.Tensor:
    """The query of the result, mixed with the content's and sharpened."""
    return tau * (gamma * q_content + (1 - gamma) * q)


def joined_attention(own: Attended, styles: list[Attended], priors: list[torch.Tensor], heads: int,
                     others: tuple = ()) -> torch.Tensor:
    """One softmax over the own keys and those of every style, with ln(prior) on their logits: one for each query
    (tokens, 1). Without a style a query is `own`'s, and else the mean of the styles' by their priors. `others` are
    further sequences of keys and values, whose logits stay as they are.
    """
    total = sum(priors)
    mixed = sum(prior * each.q for prior, each in zip(priors, styles)) / total.clamp(min=1e-6)
    q = by_head(torch.where(total > 0, mixed, own.q), heads)
    sources = [own, *styles, *others]
    priors = [(1 - total).clamp(min=0), *priors, *[torch.ones_like(total) for _ in others]]
    logits = [q @ by_head(each.k, heads).mT / q.shape[-1] ** 0.5 + prior.log() for each, prior in zip(sources, priors)]
    v = by_head(torch.cat([each.v for each in sources], 1), heads)
    return (torch.cat(logits, -1).softmax(-1) @ v).transpose(1, 2).flatten(2)


def nearest(sigmas: list[float], sigma: torch.Tensor) -> int:
    return int((torch.tensor(sigmas) / sigma.cpu()).log().abs().argmin())


def unmoved(k: torch.Tensor) -> torch.Tensor:
    return k


class Stylized(NamedTuple):
    """A style of the formula: features of content and style, masks (H, W) over their pictures, and what is done to the
    style's keys.
    """
    content: tuple
    style: tuple
    gamma: float
    tau: float
    weight: float = 1.0
    mask: torch.Tensor | None = None
    style_mask: torch.Tensor | None = None
    moved: Callable[[torch.Tensor], torch.Tensor] = unmoved


def over_tokens(mask: torch.Tensor | None, latent: torch.Tensor, tokens: int) -> torch.Tensor:
    """(tokens, 1) means of a mask over the cells of the grid of so many tokens that halves of the latent give."""
    height, width = latent.shape[-2:]
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    if mask is None:
        return torch.ones(tokens, 1)
    return adaptive_avg_pool2d(mask[None, None], (height, width)).view(tokens, 1)


def formula_attention(model, *styles: Stylized):
    """What InjectStyleKV promises, gone another way: a clone of MODEL that replaces attn1 by `joined_attention` of own
    and style keys, on captured features. Weights that sum above 1 are divided by their sum.
    """
    m = model.clone()
    for index, (side, number, transformer) in enumerate(styles[0].style.blocks):
        [spatial] = (layer for layer in model.model.diffusion_model.output_blocks[number]
                     if hasattr(layer, "transformer_blocks"))
        attn1 = spatial.transformer_blocks[transformer].attn1

        def replace(q, k, v, extra_options, index=index, attn1=attn1):
            weights = [each.weight * over_tokens(each.mask, each.content.latent, q.shape[1]).to(q) for each in styles]
            priors = [weight / sum(weights).clamp(min=1) for weight in weights]
            asked = []
            for each in styles:
                step = nearest(each.style.sigmas, extra_options["sigmas"][0])
                n_content, n_style = (features.source.steps[step][index].to(q)
                                      for features in (each.content, each.style))
                n_style = n_style[:, over_tokens(each.style_mask, each.style.latent, n_style.shape[1])[:, 0] >= 0.5]
                query = style_query(q, attn1.to_q(n_content), each.gamma, each.tau)
                asked.append(Attended(query, *(to(n_style).expand(len(q), -1, -1) for to in (attn1.to_k, attn1.to_v))))
            return joined_attention(Attended(q, k, v), asked, priors, attn1.heads)

        m.set_model_attn1_replace(replace, side, number, transformer)
    return m


def formula_in_sequence(model, picture: slice, *styles: Stylized, order: list | None = None):
    """The same for a transformer whose picture's tokens are `picture` of a sequence, and whose features are queries,
    keys and values after the rotation: the others in the sequence are attended to as they are, and attend as they
    would. `order` are the blocks of all calls of attention in a model that does not tell them.
    """
    m, calls = model.clone(), []

    def block_of(options) -> tuple | None:
        calls.append((options, options.get("block_index")))
        if order:
            return order[(len(calls) - 1) % len(order)]
        again = len(calls) > 1 and calls[-2][0] is options and calls[-2][1] == options.get("block_index")
        return None if again else (options.get("block_type", "block"), options.get("block_index"), 0)

    def override(function, q, k, v, heads, mask=None, **kwargs):
        options = kwargs["transformer_options"]
        block = block_of(options)
        if block not in styles[0].style.blocks:
            return function(q, k, v, heads, mask=mask, **kwargs)
        if kwargs.get("skip_reshape"):
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        dtype = v.dtype
        q, k, v = (x.reshape(*x.shape[:2], -1).double() for x in (q, k, v))
        tokens = picture.stop - picture.start
        start, end = (0, tokens) if q.shape[1] == tokens else (picture.start, picture.stop)
        out = attention(q, k, v, heads)
        weights = [each.weight * over_tokens(each.mask, each.content.latent, tokens).to(q) for each in styles]
        priors, asked = [weight / sum(weights).clamp(min=1) for weight in weights], []
        for each in styles:
            step, at = nearest(each.style.sigmas, options["sigmas"][0]), each.style.blocks.index(block)
            of_content, of_style = (features.source.steps[step][at] for features in (each.content, each.style))
            q_content, k_style, v_style = (x.to(q) for x in (of_content.q, of_style.k, of_style.v))
            k_style = each.moved(k_style)
            kept = over_tokens(each.style_mask, each.style.latent, k_style.shape[1])[:, 0] >= 0.5
            query = style_query(q[:, start:end], q_content.expand(len(q), -1, -1), each.gamma, each.tau)
            asked.append(Attended(query, *(x[:, kept].expand(len(q), -1, -1) for x in (k_style, v_style))))
        own, *others = (Attended(q[:, part], k[:, part], v[:, part])
                        for part in (slice(start, end), slice(0, start), slice(end, None)))
        of_picture = joined_attention(own, asked, priors, heads, others)
        return torch.cat([out[:, :start], of_picture, out[:, end:]], 1).to(dtype)

    m.model_options["transformer_options"]["optimized_attention_override"] = override
    return m


def paper_attention(model, content_features, style_features, gamma: float, temperature: float):
    """StyleID's own: one style that has all of the attention."""
    return formula_attention(model, Stylized(content_features, style_features, gamma, temperature))
