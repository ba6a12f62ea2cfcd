"""The campaign finds what is planted, and nothing where nothing is."""

import gc
from collections import Counter
from contextlib import nullcontext
from types import SimpleNamespace

import comfy.utils
import hypothesis
import pytest
import torch

from tools.campaign import fault_part, server_part
from tools.campaign.__main__ import SETTINGS, run_part
from tools.campaign.faults import Fault
from tools.campaign.transfers import Transfer
from tools.client import Run

OUR_FRAME = '  File "/base/custom_nodes/styleid/nodes/sampling.py", line 3, in image_latent\n    raise ValueError('
HOST_FRAME = '  File "/ComfyUI/comfy/samplers.py", line 9, in sample\n    x = conds[0]\n'
TRANSFER = Transfer(dict(steps=2, gamma=0.5, temperature=1.5, color_strength=1.0, blocks="0-3", schedule="ddim",
                         denoise=1.0, refine=0, inject_into="both", feature_dtype="auto", feature_device="auto"))
kept = []


@pytest.fixture(autouse=True)
def as_in_a_campaign(monkeypatch):
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_ENABLED", False)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    kept.clear()
    gc.unfreeze()


def faulty(pack, when_it_fails):
    """The pack with a sampler that does `when_it_fails(model)` on the way out of an error; what that gives is the
    result.
    """
    def sampler(**inputs):
        try:
            return pack.StyleIDSampler(**inputs)
        except Exception:  # noqa: BLE001
            result = when_it_fails(inputs["model"])
            if result is None:
                raise
            return result

    return SimpleNamespace(**vars(pack) | {"StyleIDSampler": sampler})


def leave_a_hook(model):
    model.model.diffusion_model.out[0].register_forward_hook(lambda *_: None)


def change_a_weight(model):
    model.model.diffusion_model.out[0].weight.mul_(1.01)


@pytest.mark.parametrize(("plant", "found"), [
    (lambda model: model.model.diffusion_model.register_buffer("left", torch.ones(1)), "tensors stay alive"),
    (lambda model: kept.append(torch.ones(3, 5)), r"tensors stay alive: \{\(3, 5\): 1\}"),
    (leave_a_hook, "hooks of the model changed"),
    (change_a_weight, "the untouched model draws something else"),
    (lambda model: ({"samples": torch.zeros(1, 4, 8, 8)},), "the fault changed the result"),
    (lambda model: {}["key"], r"another error came back: KeyError\('key'\)")])
def test_what_a_fault_leaves_behind_is_wrong(pack, plant, found):
    part = fault_part.FaultPart(faulty(pack, plant))
    fault = Fault("error", "a model call", "out.0", 0.5)
    with pytest.raises(AssertionError, match=found):
        part.check(TRANSFER, [fault])


def test_a_patch_on_the_shared_model_is_wrong(pack):
    def sampler(**inputs):
        patches = {"attn2_patch": [lambda n, c, v, _: (n, c, v)]}
        inputs["model"].model_options["transformer_options"]["patches"] = patches
        return pack.StyleIDSampler(**inputs)

    part = fault_part.FaultPart(pack)
    part.pack = SimpleNamespace(**vars(pack) | {"StyleIDSampler": sampler})
    with pytest.raises(AssertionError, match="model_options of the model changed"):
        part.check(TRANSFER, [Fault("error", "the guidance", "out.0", 0.0)])


def test_a_result_with_nan_is_wrong(pack):
    broken = SimpleNamespace(**vars(pack)
                             | {"StyleIDSampler": lambda **_: ({"samples": torch.full((1, 4, 8, 8), float("nan"))},)})
    with pytest.raises(AssertionError, match="NaN"):
        fault_part.FaultPart(broken).check(TRANSFER, [])
    report = {"finite": False, "shape": [1, 4, 8, 8]}
    with pytest.raises(AssertionError, match="NaN"):
        server_part.end_of_run(Run("success", {"report": {"report": [report]}}, {}, [], 0))
    run = Run("success", {"report": {"report": [report | {"finite": True}]}}, {}, [], 0)
    assert server_part.end_of_run(run) == "right"


def test_the_pack_passes(pack):
    part = fault_part.FaultPart(pack)

    @hypothesis.seed(0)
    @hypothesis.settings(SETTINGS, max_examples=6)
    @hypothesis.given(**part.strategies)
    def attempt(transfer, faults):
        part.check(transfer, faults)

    attempt()
    assert part.ended.total() >= 6 and {how for _, how in part.ended} == {"right"}


def test_a_failure_is_made_small_and_printed(monkeypatch, capsys):
    def check(number):
        assert number < 10

    part = SimpleNamespace(check=check, ended=Counter(), strategies={"number": hypothesis.strategies.integers(0, 999)})
    monkeypatch.setattr(fault_part, "open_part", lambda: nullcontext(part))
    assert run_part("faults", 0, 60) == {("see above", "FAILED"): 1}
    assert "assert 10 < 10" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "message", "frames", "end"), [
    ("ValueError", "The content latent is empty. Connect a picture through VAE Encode.", [HOST_FRAME, OUR_FRAME],
     "refused"),
    ("ValueError", "The content latent is empty. Connect a picture through VAE Encode.", [OUR_FRAME, HOST_FRAME], None),
    ("ValueError", "not enough values to unpack (expected 1, got 0)", [OUR_FRAME], None),
    ("ValueError", "Exceeds the limit (4300 digits) for integer string conversion", [OUR_FRAME], None),
    ("KeyError", "'samples'", [OUR_FRAME], None),
    ("RuntimeError", "The size of tensor a (4) must match the size of tensor b (8)", [OUR_FRAME, HOST_FRAME], None),
    ("RuntimeError", "The size of tensor a (4) must match the size of tensor b (8)", [HOST_FRAME],
     "ComfyUI itself fails")])
def test_an_error_of_ours_without_a_sentence_is_wrong(kind, message, frames, end):
    error = {"exception_type": kind, "exception_message": message, "traceback": frames, "node_type": "StyleIDSampler"}
    run = Run("error", {}, {"execution_error": error}, [], 0)
    if end is None:
        with pytest.raises(AssertionError, match="StyleIDSampler"):
            server_part.end_of_run(run)
    else:
        assert server_part.end_of_run(run) == end


def test_an_exception_of_ours_in_the_validation_is_wrong():
    reason = {"type": "exception_during_inner_validation", "details": "list index out of range",
              "extra_info": {"traceback": [HOST_FRAME]}}
    assert server_part.end_of_refusal({"node_errors": {"1": {"errors": [reason]}}}) == "ComfyUI itself fails"
    reason["extra_info"]["traceback"].append(OUR_FRAME)
    with pytest.raises(AssertionError, match="list index out of range"):
        server_part.end_of_refusal({"node_errors": {"1": {"errors": [reason]}}})


@pytest.mark.parametrize("message", ['blocks "12": output block 12 has no self-attention.',
                                     "cfg 7 compares with a negative, and none is."])
def test_sentences(message):
    assert server_part.is_sentence(message) and not server_part.is_sentence(message + "x" * 1000)
