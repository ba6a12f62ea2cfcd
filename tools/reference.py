"""StyleID's attention as the paper writes it (eq. 5-7), on projected q, k and v: what the tests and the bench compare with."""

import torch


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, tau: float = 1.0) -> torch.Tensor:
    """softmax(tau q k^T / sqrt(d)) v of (batch, tokens, channels)."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    weights = (tau * (q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def style_attention(q, q_content, k_style, v_style, heads: int, gamma: float, tau: float) -> torch.Tensor:
    """The query q of the result mixed with the content's, asked of the style's keys and values."""
    return attention(gamma * q_content + (1 - gamma) * q, k_style, v_style, heads, tau)


def nearest(sigmas: list[float], sigma: torch.Tensor) -> int:
    return int((torch.tensor(sigmas) / sigma).log().abs().argmin())


def paper_attention(model, content_features, style_features, gamma: float, temperature: float):
    """What InjectStyleKV promises, gone another way: a clone of MODEL that replaces attn1 by `style_attention` on captured features."""
    m = model.clone()
    for index, (side, number, transformer) in enumerate(style_features.blocks):
        [spatial] = (layer for layer in model.model.diffusion_model.output_blocks[number] if hasattr(layer, "transformer_blocks"))
        attn1 = spatial.transformer_blocks[transformer].attn1

        def replace(q, k, v, extra_options, index=index, attn1=attn1):
            step = nearest(style_features.sigmas, extra_options["sigmas"][0])
            n_content, n_style = (features.source.steps[step][index] for features in (content_features, style_features))
            return style_attention(q, attn1.to_q(n_content), attn1.to_k(n_style), attn1.to_v(n_style), attn1.heads, gamma, temperature)

        m.set_model_attn1_replace(replace, side, number, transformer)
    return m
