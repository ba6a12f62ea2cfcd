import torch

from styleid_core.attention import mix_query_input


def test_mixing_inputs_is_the_papers_mixing_of_queries():
    """Eq. 5-7 of the paper on projected queries, keys and values, against plain attention on the mixed input."""
    n_cs, n_c, n_s = torch.randn(3, 2, 20, 16, dtype=torch.float64)
    w_q, w_k, w_v = torch.randn(3, 16, 16, dtype=torch.float64) / 4
    gamma, tau = 0.75, 1.5

    q = gamma * n_c @ w_q + (1 - gamma) * n_cs @ w_q
    expected = (tau * q @ (n_s @ w_k).mT / 16 ** 0.5).softmax(-1) @ (n_s @ w_v)

    mixed = mix_query_input(n_cs, n_c, gamma, tau)
    got = torch.nn.functional.scaled_dot_product_attention(mixed @ w_q, n_s @ w_k, n_s @ w_v)
    torch.testing.assert_close(got, expected)


def test_gamma_0_and_tau_1_change_nothing():
    n_cs, n_c = torch.randn(2, 1, 20, 16)
    assert torch.equal(mix_query_input(n_cs, n_c, 0.0, 1.0), n_cs)
