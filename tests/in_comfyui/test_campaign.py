"""The campaign finds what is planted, and nothing where nothing is."""

import gc
import re
from types import SimpleNamespace

import comfy.utils
import pytest
import torch

from tools.campaign import command_part, fault_part, server_part
from tools.campaign.errors import Error, is_refusal, is_sentence
from tools.campaign.outcome import Outcome, Try, table
from tools.client import Run

OUR_FRAME = '  File "/base/custom_nodes/styleid/nodes/sampling.py", line 3, in image_latent\n    raise ValueError('
HOST_FRAME = '  File "/ComfyUI/comfy/samplers.py", line 9, in sample\n    x = conds[0]\n'
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


def in_one_node(pack, monkeypatch) -> fault_part.FaultPart:
    draw = fault_part.transfers.random_transfer
    monkeypatch.setattr(fault_part.transfers, "random_transfer", lambda rng: draw(rng)._replace(nodes="one"))
    return fault_part.FaultPart(pack, seed=0)


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
    (lambda model: {}["key"], "another error came back: KeyError: 'key'")])
def test_what_a_fault_leaves_behind_is_wrong(pack, monkeypatch, plant, found):
    part = in_one_node(faulty(pack, plant), monkeypatch)
    faults = [outcome for case in range(3) for outcome in part.attempt(case) if outcome.tried != "one node beside five"]
    assert {outcome.verdict for outcome in faults} <= {"wrong", "right"}
    assert any(outcome.verdict == "wrong" and re.search(found, outcome.detail) for outcome in faults), faults


def test_a_patch_on_the_shared_model_is_wrong(pack):
    def sampler(**inputs):
        patches = {"attn2_patch": [lambda n, c, v, _: (n, c, v)]}
        inputs["model"].model_options["transformer_options"]["patches"] = patches
        return pack.StyleIDSampler(**inputs)

    part = fault_part.FaultPart(pack, seed=0)
    part.pack = SimpleNamespace(**vars(pack) | {"StyleIDSampler": sampler})
    assert any("model_options of the model changed" in outcome.detail for case in range(3)
               for outcome in part.attempt(case))


def test_a_result_with_nan_is_wrong(pack, monkeypatch):
    broken = SimpleNamespace(**vars(pack)
                             | {"StyleIDSampler": lambda **_: ({"samples": torch.full((1, 4, 8, 8), float("nan"))},)})
    part = in_one_node(broken, monkeypatch)
    assert part.attempt(0)[0].verdict == "wrong"
    report = {"finite": False, "shape": [1, 4, 8, 8]}
    assert server_part.judge_reports({"report": {"report": [report]}})[0] == "wrong"
    assert server_part.judge_reports({"report": {"report": [report | {"finite": True}]}})[0] == "right"


def test_the_pack_passes(pack):
    part = fault_part.FaultPart(pack, seed=0)
    outcomes = [outcome for case in range(8) for outcome in part.attempt(case)]
    told = table([Try("faults", 0, 0, outcome) for outcome in outcomes])
    assert {outcome.verdict for outcome in outcomes} == {"right"}, told


def failed_run(kind: str, message: str, frames: list[str]) -> Run:
    error = {"exception_type": kind, "exception_message": message, "traceback": frames, "node_type": "StyleIDSampler"}
    return Run("error", {}, {"execution_error": error}, [], 0)


@pytest.mark.parametrize(("kind", "message", "frames", "verdict"), [
    ("ValueError", "The content latent is empty. Connect a picture through VAE Encode.", [HOST_FRAME, OUR_FRAME],
     "refused"),
    ("ValueError", "The content latent is empty. Connect a picture through VAE Encode.", [OUR_FRAME, HOST_FRAME],
     "raw"),
    ("ValueError", "not enough values to unpack (expected 1, got 0)", [OUR_FRAME], "raw"),
    ("ValueError", "Exceeds the limit (4300 digits) for integer string conversion", [OUR_FRAME], "raw"),
    ("KeyError", "'samples'", [OUR_FRAME], "raw"),
    ("RuntimeError", "The size of tensor a (4) must match the size of tensor b (8)", [OUR_FRAME, HOST_FRAME], "raw")])
def test_an_error_without_a_sentence_is_raw(kind, message, frames, verdict):
    run = failed_run(kind, message, frames)
    assert server_part.verdict_of(run, None) == verdict
    assert is_refusal(Error(kind, message, frames)) == (verdict == "refused")
    if verdict == "raw":
        assert server_part.verdict_of(run, run) == "host", "ComfyUI's own nodes say the same"


@pytest.mark.parametrize(("inputs", "unlinked"), [({"latent": "text", "steps": 3}, True),
                                                  ({"latent": ["z", 0], "steps": 3}, False)])
def test_a_value_in_place_of_a_link_is_no_fault_of_ours(inputs, unlinked):
    kinds = {"latent": ["LATENT"], "steps": ["INT", {}], "add": ["BOOLEAN", {}], "way": [["a"], {}]}
    info = {"LatentAdaIN": {"input": {"required": kinds}}}
    assert server_part.unlinked({"x": {"class_type": "LatentAdaIN", "inputs": inputs | {"add": True, "way": "a"}}},
                                info) == unlinked


@pytest.mark.parametrize("message", ['blocks "12": output block 12 has no self-attention.',
                                     "cfg 7 compares with a negative, and none is."])
def test_sentences(message):
    assert is_sentence(message) and not is_sentence(message + "x" * 1000)


@pytest.mark.parametrize(("script", "verdict"), [
    ("raise KeyError('name')", "raw"), ("import os; os.abort()", "crashed"), ("import time; time.sleep(60)", "crashed"),
    ("exit('error: There is no file here.')", "refused"), ("exit('oops')", "raw"), ("", "right")])
def test_how_a_command_ends(tmp_path, monkeypatch, script, verdict):
    monkeypatch.setattr(command_part, "SECONDS", 60 if "sleep" not in script else 1)
    assert command_part.judge("a script", ["-c", script], tmp_path).verdict == verdict


def test_the_table_repeats_a_failure():
    outcomes = Outcome("error at a layer", "right"), Outcome("interrupt at a layer", "wrong", "hooks stay")
    text = table([Try("faults", 5, 8 + i, outcome) for i, outcome in enumerate(outcomes)])
    assert "| faults | interrupt at a layer |  |  |  |  | 1 |  |" in text
    assert "hooks stay (`--only faults --seed 5 --case 9`)" in text
