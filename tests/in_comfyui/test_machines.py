"""Other machines, and other versions of torch and ComfyUI than these tests run on."""

import subprocess
import sys

import pytest
import torch
from cases import relative_error
from sequences import CONTENT, STEPS, STYLE, TOKENS

from tools.host import ROOT
from tools.miniature.transformers import latent, load_transformer, prompt
from tools.pack import stylize


@pytest.mark.parametrize("family", ["flux", "z_image", "sd35"])
def test_an_apple_computer_recomputes(pack, family, monkeypatch):
    """There torch has a device that it cannot ask for its number, which is what a context for no stream of CUDA does.
    """
    inputs = dict(model=load_transformer(family), content=latent(family, CONTENT, 1), style=latent(family, STYLE, 2),
                  positive=prompt(family, TOKENS), steps=STEPS)
    kept = stylize(pack, **inputs)["samples"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    # Others, which are not remembered.
    inputs |= dict(content=latent(family, CONTENT, 1), style=latent(family, STYLE, 2))
    assert relative_error(stylize(pack, feature_device="recompute", **inputs)["samples"], kept) < 1e-5


def test_torch_without_stances(pack, model, case, monkeypatch):
    """Before 2.6, with which ComfyUI still runs; torch._dynamo is there once anything has asked for it."""
    import torch._dynamo  # noqa: F401, PLC0415

    inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive, steps=2)
    [expected] = pack.StyleIDSampler(**inputs)
    monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    assert torch.equal(pack.StyleIDSampler(**inputs)[0]["samples"], expected["samples"])


def test_trying_a_sampler_leaves_every_generator_alone(pack_module, model, inverted, monkeypatch):
    """Those of GPUs too: what follows in the graph draws what it would without the injection."""
    (_, _, sigmas), _ = inverted
    seeded = []
    for module in (torch.cuda, torch.mps, torch.xpu):
        monkeypatch.setattr(module, "manual_seed_all" if hasattr(module, "manual_seed_all") else "manual_seed",
                            seeded.append)
    torch.manual_seed(7)
    seeded.clear()
    before = torch.get_rng_state()
    samplers = pack_module("nodes.engine.samplers")
    for name in ("euler", "euler_ancestral"):
        samplers.adds_noise(model, 1.0, samplers.comfy.samplers.sampler_object(name), sigmas)
    assert torch.equal(torch.get_rng_state(), before) and not seeded


def test_features_on_a_gpu_have_memory_of_their_own(pack_module):
    """Of a batch of content and style, each can be let go alone."""
    gpu = torch.device("meta")
    both = torch.empty(2, 6, 8, device=gpu)
    kept = pack_module("nodes.engine.memory").keeper(gpu, gpu)(both[:1])
    assert kept.untyped_storage().nbytes() == kept.nbytes == both.nbytes // 2


WITHOUT = """
import importlib, tools.in_process
module = importlib.import_module("{module}")
missing = vars(module).pop("{name}")
from tools.pack import load_pack
pack = load_pack()
module.{name} = missing  # for ComfyUI itself
from tools.miniature.unet import load_unet
from tools.miniature.transformers import load_transformer
for load in (load_unet, lambda: load_transformer("flux")):
    try:
        pack.CaptureSelfAttention(model=load())
        print("served")
    except ValueError as error:
        print(error)
"""


@pytest.mark.full
@pytest.mark.parametrize(("module", "name", "served"), [
    ("comfy.model_sampling", "COSMOS_RFLOW", [True, True]),
    ("comfy.ldm.modules.diffusionmodules.openaimodel", "Upsample", [False, True])])
def test_a_name_that_a_host_has_not_costs_one_family(module, name, served):
    """At most: its models are refused, the others and all nodes are there."""
    done = subprocess.run([sys.executable, "-c", WITHOUT.format(module=module, name=name)], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()[-2:]
    assert [line == "served" for line in lines] == served
    if not all(served):
        assert "Models of the family unet are not served" in done.stderr
        assert "StyleID needs a transformer" in lines[0]
