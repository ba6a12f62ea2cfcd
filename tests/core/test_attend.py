"""One attention over own and style keys, against a softmax with an explicit bias."""

import pytest
import torch

from styleid_core.attend import (
    AUTO_RANGE,
    Asked,
    Division,
    Part,
    Share,
    Shared,
    attend,
    divided,
    joined,
    temperatures,
)

TOKENS, CHANNELS, HEADS = 12, 8, 2
generator = torch.Generator().manual_seed(0)
N, W_Q, W_K, W_V = (torch.randn(*shape, generator=generator, dtype=torch.float64)
                    for shape in [(2, TOKENS, CHANNELS)] + [(CHANNELS, CHANNELS)] * 3)
SHARES = [Share(*(torch.randn(2, tokens, CHANNELS, generator=generator, dtype=torch.float64)
                  for tokens in (TOKENS, keys)), gamma, tau) for keys, gamma, tau in ((7, 0.3, 1.4), (20, 0.6, 1.0))]


def by_head(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def attention(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(*map(by_head, (q, k, v))).transpose(1, 2).flatten(2)


def shared(weights: list[torch.Tensor], attention=attention, whole: bool = False) -> torch.Tensor:
    both = Shared(divided(weights), SHARES[:len(weights)], whole)
    sources = [N, *(share.style for share in both.shares)]
    asked = []
    for part in both.division.parts:
        keys = [sources[i] for i in [0] * part.own + [number + 1 for number in part.styles]]
        asked.append(Asked(part.indices, both.mixed(part, N) @ W_Q, joined(keys) @ W_K, joined(keys) @ W_V,
                           [each.shape[1] for each in keys], both.priors(part)))
    return attend(asked, TOKENS, HEADS, attention)


def explicit(weights: list[torch.Tensor]) -> torch.Tensor:
    total = sum(weights)
    priors = [weight / total.clamp(min=1) for weight in weights]
    total = sum(priors)
    mixes = [share.tau * (share.gamma * share.content + (1 - share.gamma) * N) for share in SHARES]
    n = torch.where(total > 0, sum(map(torch.mul, priors, mixes)) / total.clamp(min=1e-9), N)
    keys, bias = [N, *(share.style for share in SHARES[:len(weights)])], [(1 - total).clamp(min=0), *priors]
    bias = torch.cat([prior.log().expand(2, TOKENS, len(each[0])) for prior, each in zip(bias, keys)], -1)
    q, k, v = by_head(n @ W_Q), by_head(joined(keys) @ W_K), by_head(joined(keys) @ W_V)
    logits = q @ k.mT / (CHANNELS / HEADS) ** 0.5 + bias[:, None]
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)


def constant(value: float) -> torch.Tensor:
    return torch.full((1, TOKENS, 1), value, dtype=torch.float64)


HALF = (torch.arange(TOKENS) < 5).double().view(1, -1, 1)
WEIGHTS = {
    "some of one": [constant(0.4)], "all of one": [constant(1.0)], "a mix": [constant(0.3), constant(0.5)],
    "all of two": [constant(0.3), constant(0.7)], "above 1": [constant(0.9), 0.8 * HALF],
    "two regions": [HALF, 1 - HALF], "one region": [HALF], "some of one region": [0.8 * HALF],
    "a region of each picture": [torch.cat([HALF, 0.5 * (1 - HALF)])],
    "regions of each picture": [torch.cat([HALF, 1 - HALF]), torch.cat([0.5 * (1 - HALF), HALF])],
}


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("case", WEIGHTS)
def test_the_softmax_over_all_keys(case, whole):
    torch.testing.assert_close(shared(WEIGHTS[case], whole=whole), explicit(WEIGHTS[case]))


def test_only_keys_with_a_prior_are_asked():
    asked = []

    def counted(q, k, v):
        asked.append((q.shape[1], k.shape[1], q.shape[2]))
        return attention(q, k, v)

    shared([HALF, 1 - HALF], counted)
    assert sorted(asked) == [(5, 7, CHANNELS), (TOKENS - 5, 20, CHANNELS)]
    asked.clear()
    shared([0.5 * HALF], counted)
    assert sorted(asked) == [(5, TOKENS + 7, HEADS * 8), (TOKENS - 5, TOKENS, CHANNELS)]


def test_nobody_attends_where_no_style_has_a_weight():
    assert divided([constant(0.0), constant(0.0)]) is None


def test_what_hands_the_values_on_gives_the_pictures_own():
    """A perturbed attention (PAG), with priors and without."""
    for priors in ([], [constant(0.5)] * 2):
        style = Asked(None, N, SHARES[0].style, SHARES[0].style, [3, 4], priors)
        assert torch.equal(attend([style], TOKENS, HEADS, lambda q, k, v: v, own_values=N), N)


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
    """Of several styles it is the mean by their priors, where those without have none."""
    q, k_own, keys = N @ W_Q, N @ W_K, [0.4 * share.style @ W_K for share in SHARES]
    first = temperatures(q, k_own, keys[0], HEADS).double()
    assert (first > 1.2).all()
    shares = [SHARES[0]._replace(auto=True), SHARES[1]]
    one = Shared(divided([constant(1.0)]), shares[:1])
    torch.testing.assert_close(one.sharpened(one.division.parts[0], q, k_own, keys[:1], HEADS), first * q)
    two = Shared(Division([Part(None, True, (0, 1))], constant(0.2), [constant(0.2), constant(0.6)]), shares)
    torch.testing.assert_close(two.sharpened(two.division.parts[0], q, k_own, keys, HEADS), (0.25 * first + 0.75) * q)


def test_keys_of_fewer_heads_than_queries():
    """Each head of them serves several: as if it were there for each."""
    q, own, style = (torch.randn(2, tokens, width, generator=generator, dtype=torch.float64)
                     for tokens, width in ((40, 32), (60, 16), (30, 16)))
    repeated = [x.unflatten(-1, (2, 8)).repeat_interleave(2, 2).flatten(2) for x in (own, style)]
    torch.testing.assert_close(temperatures(q, own, style, 4), temperatures(q, *repeated, 4))
