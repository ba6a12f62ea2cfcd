"""Attention-based style injection (StyleID sections 3.2 and 3.3, eq. 4-7), at the input of self-attention.

The projections of SD's self-attention have no bias, so W_q(tau * (gamma * n_c + (1 - gamma) * n_cs)) is the paper's
tau * (gamma * Q_c + (1 - gamma) * Q_cs): mixing what enters the projections mixes queries, and the style's n_s as
context gives its keys and values.
"""

from torch import Tensor


def mix_query_input(n_cs: Tensor, n_content: Tensor, gamma: float, tau: float) -> Tensor:
    """tau * (gamma * n_content + (1 - gamma) * n_cs), shapes (B, tokens, channels).

    `gamma` is the query preservation (0: the stylized image's own queries, 1: the content's), `tau` the attention
    temperature: a factor on the queries is the same factor on the attention logits.
    """
    return tau * n_cs.lerp(n_content, gamma)
