import pytest
import torch

from styleid_core.storage import STORAGES, Int8, Slabs, restore, store

N = torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
N[0, 1] = 0


@pytest.mark.parametrize(("storage", "error"), [("auto", 0), ("fp16", 2 ** -11), ("bf16", 2 ** -8)])
def test_floats_are_rounded_to_their_precision(storage, error):
    kept = store(N, storage, Slabs(pin_memory=False).keep)
    assert kept.dtype == (STORAGES[storage] or N.dtype)
    assert ((restore(kept, N) - N).abs() <= N.abs() * error).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_int8_is_off_by_half_a_step_of_its_tokens_scale(dtype):
    n = N.to(dtype)
    kept = store(n, "int8", Slabs(pin_memory=False).keep)
    assert isinstance(kept, Int8) and kept.values.dtype == torch.int8 and kept.values.abs().amax() == 127
    back = restore(kept, n)
    assert back.dtype == dtype and (back[0, 1] == 0).all()
    assert ((back.float() - n.float()).abs() <= kept.scale * 0.51 + n.float().abs() * 1e-3).all()


def test_tensors_share_slabs_and_nothing_else(monkeypatch):
    monkeypatch.setattr(Slabs, "SLAB", 2048)
    slabs = Slabs(pin_memory=False)
    tensors = [torch.randn(count).to(dtype) for count, dtype in ((3, torch.half), (100, torch.float), (7, torch.int8), (300, torch.float),
                                                                (2000, torch.float), (5, torch.bfloat16))]
    kept = [slabs.keep(tensor) for tensor in tensors]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(kept, tensors))
    assert len({place.untyped_storage().data_ptr() for place in kept}) == 4, "for three, for one, for what is larger, for the rest"
