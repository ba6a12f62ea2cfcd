import pytest
import torch

from styleid_core.features import Tokens
from styleid_core.storage import STORAGES, Int8, restore, store

N = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
N[0, 1] = 0


@pytest.mark.parametrize(("storage", "error"), [("auto", 0), ("fp16", 2 ** -11), ("bf16", 2 ** -8)])
def test_floats_are_rounded_to_their_precision(storage, error):
    kept = store(N, storage, torch.clone)
    assert kept.dtype == (STORAGES[storage] or N.dtype)
    assert ((restore(kept, N.device, N.dtype) - N).abs() <= N.abs() * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_int8_is_off_by_half_a_step_of_its_tokens_scale(dtype):
    n = N.to(dtype)
    kept = store(n, "int8", torch.clone)
    assert isinstance(kept, Int8) and kept.values.dtype == torch.int8 and kept.values.abs().amax() == 127
    back = restore(kept, n.device, n.dtype)
    assert back.dtype == dtype and (back[0, 1] == 0).all()
    assert ((back.float() - n.float()).abs() <= kept.scale * 0.51 + n.float().abs() * 1e-3).all()


def test_each_of_three_tensors_has_a_scale_of_its_own():
    """Queries and keys with outliers, and small values: one scale for all would leave those 19% off."""
    q, k, v = (factor * torch.randn(2, 5, 64) for factor in (4.0, 4.0, 0.1))
    back = restore(store(Tokens(q, k, v), "int8", torch.clone), q.device, q.dtype)
    for mine, theirs in zip(back, (q, k, v)):
        assert (mine - theirs).norm() / theirs.norm() < 0.01
