"""Shares of one attention, against the sum over whole attentions."""

import pytest
import torch

from styleid_core.attend import AUTO_RANGE, Asked, Part, Share, attend, divided, sharpened, temperatures

TOKENS, CHANNELS = 12, 8
generator = torch.Generator().manual_seed(0)
N, N_CONTENT, W_Q, W_K, W_V = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                               for shape in [(2, TOKENS, CHANNELS)] * 2 + [(CHANNELS, CHANNELS)] * 3)
STYLES = [torch.randn(2, keys, CHANNELS, generator=generator, dtype=torch.float64) for keys in (7, 20)]


def attention(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v)


def projected(part: Part, queries: torch.Tensor, keys: torch.Tensor) -> Asked:
    return Asked(part, queries @ W_Q, keys @ W_K, keys @ W_V)


def shared(weights: list[torch.Tensor], attention=attention) -> torch.Tensor:
    own, *parts = divided(weights)
    shares = [Share(part, N_CONTENT, style, gamma=0.3, tau=1.4) for part, style in zip(parts, STYLES) if part]
    asked = [projected(own, own.of(N), N)] if own else []
    return attend(asked + [projected(share.part, share.mixed(N), share.style) for share in shares], TOKENS, attention)


def summed(weights: list[torch.Tensor]) -> torch.Tensor:
    query = 1.4 * (0.3 * N_CONTENT + 0.7 * N)
    total = sum(weights)
    out = (1 - total).clamp(min=0) * attention(N @ W_Q, N @ W_K, N @ W_V)
    return out + sum(weight / total.clamp(min=1) * attention(query @ W_Q, style @ W_K, style @ W_V)
                     for weight, style in zip(weights, STYLES))


def constant(value: float) -> torch.Tensor:
    return torch.full((1, TOKENS, 1), value, dtype=torch.float64)


HALF = (torch.arange(TOKENS) < 5).double().view(1, -1, 1)
WEIGHTS = {
    "some of one": [constant(0.4)], "all of one": [constant(1.0)], "a mix": [constant(0.3), constant(0.5)],
    "above 1": [constant(0.9), 0.8 * HALF], "two regions": [HALF, 1 - HALF], "one region": [HALF],
    "a region of each picture": [torch.cat([HALF, 0.5 * (1 - HALF)])],
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_the_sum_over_styles(case):
    torch.testing.assert_close(shared(WEIGHTS[case]), summed(WEIGHTS[case]).expand(2, -1, -1))


def test_only_tokens_with_a_share_are_asked_for():
    asked = []

    def counted(q, k, v):
        asked.append((q.shape[1], k.shape[1]))
        return attention(q, k, v)

    shared([HALF, 1 - HALF], counted)
    assert asked == [(5, 7), (TOKENS - 5, 20)]


def test_nobody_attends_where_no_style_has_a_weight():
    assert divided([constant(0.0), constant(0.0)]) == [None, None, None]


def test_what_hands_the_values_on_gives_the_pictures_own():
    """A perturbed attention (PAG)."""
    style = Asked(Part(), N_CONTENT, STYLES[0], STYLES[0])
    assert torch.equal(attend([style], TOKENS, lambda q, k, v: v, own_values=N), N)


def test_the_temperature_that_finds_itself_levels_the_deviation_of_logits():
    """Of each head and picture, within its range."""
    heads = 4
    q, own, style = (torch.randn(2, tokens, heads * 8, generator=generator, dtype=torch.float64)
                     for tokens in (40, 60, 30))
    style *= torch.tensor([0.5, 0.9, 0.1, 2.0], dtype=torch.float64).repeat_interleave(8)
    found = temperatures(q, own, style, heads)[:, 0].view(2, heads, 8)
    by_head = [x.unflatten(-1, (heads, 8)).transpose(1, 2) for x in (q, own, style)]
    wanted = ((by_head[0] @ by_head[1].mT).var(-1).mean(-1) / (by_head[0] @ by_head[2].mT).var(-1).mean(-1)).sqrt()
    torch.testing.assert_close(found, wanted.clamp(*AUTO_RANGE)[..., None].expand_as(found).float())
    assert 1.5 < wanted[0, 0] < 2.5 and wanted[0, 2] > 3 and wanted[0, 3] < 1, "all three cases"


def test_the_temperature_is_on_the_queries():
    asked = projected(Part(), N_CONTENT, 0.4 * STYLES[1])
    factor = temperatures(asked.q, N @ W_K, asked.k, 1).double()
    torch.testing.assert_close(sharpened(asked, N @ W_K, 1).q, factor * asked.q)
    assert (factor > 1.2).all()


def test_keys_of_fewer_heads_than_queries():
    """Each head of them serves several: as if it were there for each."""
    q, own, style = (torch.randn(2, tokens, width, generator=generator, dtype=torch.float64)
                     for tokens, width in ((40, 32), (60, 16), (30, 16)))
    repeated = [x.unflatten(-1, (2, 8)).repeat_interleave(2, 2).flatten(2) for x in (own, style)]
    torch.testing.assert_close(temperatures(q, own, style, 4), temperatures(q, *repeated, 4))
