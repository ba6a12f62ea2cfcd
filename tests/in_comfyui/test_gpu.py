"""What only a GPU can show: python dev.py test --gpu."""

import warnings

import pytest
import torch
from comfy.cli_args import args

from tools.demo.transfer import sample_custom

pytestmark = pytest.mark.skipif(args.cpu, reason="needs a GPU and python dev.py test --gpu")


@pytest.fixture
def kept_at(pack, model, case):
    """kept_at(device, dtype): [(noise, features, sigmas) of content, of style]."""
    def invert(device, dtype="auto"):
        [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_dtype=dtype, feature_device=device)
        return [pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=case.steps,
                                schedule="ddim")
                for latent in (case.content, case.style)]

    return invert


@pytest.mark.parametrize(("device", "kept_on"), [("auto", "cpu"), ("gpu", "cuda"), ("cpu", "cpu")])
def test_features_are_where_they_were_asked_to_be(kept_at, device, kept_on):
    for _, features, _ in kept_at(device):
        tensors = [n for step in features.source.steps for n in step]
        assert {n.device.type for n in tensors} == {kept_on}
        assert all(n.is_pinned() for n in tensors) or kept_on == "cuda"


@pytest.mark.parametrize("dtype", ["auto", "fp16", "int8"])
def test_places_agree_to_the_bit(pack, model, case, kept_at, dtype):
    results = []
    for device in ("gpu", "cpu"):
        (noise, content, sigmas), (_, style, _) = kept_at(device, dtype)
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
        results.append(sample_custom(m, case.positive, sigmas, noise)["samples"])
    assert torch.equal(*results)


def test_of_features_in_ram_two_steps_are_on_the_gpu(pack, model, case, kept_at):
    (noise, content, sigmas), (_, style, _) = kept_at("cpu")
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    peaks = []
    for sampled in (model, m):
        sample_custom(sampled, case.positive, sigmas[:3], noise)  # loads and warms up
        torch.cuda.reset_peak_memory_stats()
        sample_custom(sampled, case.positive, sigmas, noise)
        peaks.append(torch.cuda.max_memory_allocated())
    one_step = sum(n.nbytes for features in (content, style) for n in features.source.steps[0])
    assert peaks[1] - peaks[0] < 3.5 * one_step, "two steps, and the one that is being mixed"


def test_the_host_waits_for_the_gpu_no_oftener_than_once_a_call(pack, model, case, kept_at):
    """More than in sampling without injection."""
    (noise, content, sigmas), (_, style, _) = kept_at("cpu")
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)

    def waits(sampled, steps):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            sample_custom(sampled, case.positive, sigmas[:steps + 1], noise)
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchroniz" in str(warning.message) for warning in caught)

    in_three_steps = []
    for sampled in (model, m):
        sample_custom(sampled, case.positive, sigmas, noise)  # loads and warms up
        in_three_steps.append(waits(sampled, 5) - waits(sampled, 2))
    assert in_three_steps[0] <= in_three_steps[1] <= in_three_steps[0] + 3
