import pytest
import torch

from styleid_core.features import Features, Kept, Reader, nearest_step, repeat_batch

BLOCK = ("output", 6, 0)
CPU = torch.device("cpu")
FEATURES = Features([0.1, 1.0, 10.0], [BLOCK], Kept([[torch.full((1, 4, 8), float(i))] for i in range(3)]),
                    torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize(("sigma", "step"), [(0.1, 0), (0.3, 0), (0.4, 1), (1.001, 1), (9.0, 2), (14.6, 2), (0.03, 0)])
def test_the_nearest_step_on_a_log_scale(sigma, step):
    assert nearest_step(FEATURES, sigma) == step
    assert Reader(FEATURES, CPU).read(sigma)[BLOCK][0, 0, 0] == step


@pytest.mark.parametrize("sigma", [0.001, 1000.0])
def test_far_outside_of_what_was_captured_is_refused(sigma):
    with pytest.raises(ValueError, match=f"near sigma {sigma:.4g}: the inversion covered 0.1 to 10"):
        nearest_step(FEATURES, sigma)


def test_a_single_captured_step_serves_only_itself():
    single = FEATURES._replace(sigmas=[1.0], source=Kept(FEATURES.source.steps[1:2]))
    assert nearest_step(single, 1.0) == 0
    with pytest.raises(ValueError, match="in 1 steps"):
        nearest_step(single, 1.1)


def test_a_sampling_batch_holds_copies_of_the_latent_batch():
    n = torch.arange(2.0).reshape(2, 1, 1)
    assert repeat_batch(n, 2) is n
    assert repeat_batch(n, 4).flatten().tolist() == [0, 1, 0, 1]
    assert repeat_batch(n[:1], 3).flatten().tolist() == [0, 0, 0]


@pytest.mark.parametrize("order", [[2, 1, 0], [0, 1, 2], [2, 2, 1, 2, 0], [2, 0]])
def test_reading_in_any_order_holds_at_most_two_steps(order):
    reader = Reader(FEATURES, CPU)
    for step in order:
        assert reader.read(FEATURES.sigmas[step])[BLOCK][0, 0, 0] == step
        assert set(reader.arriving) == {step, max(step - 1, 0)}, "the step that a sampling takes next is not on its way"
