"""ComfyUI's MultiGPU CFG Split: the prompts run at a time, each in a thread and on a device of its own. Here both are
the processor.
"""

import gc

import pytest
import torch
from cases import relative_error
from sequences import CONTENT, STYLE, TOKENS

from tools.demo.transfer import sample_custom
from tools.miniature.transformers import latent, load_transformer, prompt
from tools.miniature.unet import WIDE_HEADS, load_unet

pytest.importorskip("comfy.multigpu", reason="this ComfyUI has no MultiGPU CFG Split")
TINY = WIDE_HEADS | dict(channel_mult=[1, 1, 1, 1])
STEPS = 3
FAMILIES = ["unet", "flux", "qwen_image", "sd35"]


def load(family: str):
    return load_unet(unet_config=TINY, output_gain=0.1) if family == "unet" else load_transformer(family)


@pytest.fixture(scope="module", autouse=True)
def quick_garbage_collections():
    """ComfyUI makes one for every sampling on several devices, and the tests' own objects are many."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return load(family)


@pytest.fixture(scope="module")
def split(model, family):
    """MODEL with a clone on another device, as MultiGPU CFG Split makes it."""
    base = model.clone()
    twin = base.clone()
    twin.model, twin.load_device = load(family).model, torch.device("cpu", 0)
    twin.is_multigpu_base_clone, twin.parent = True, None
    base.set_additional_models("multigpu", [twin])
    return base


@pytest.fixture
def inputs(family, case):
    """(LATENTs of content and style, CONDITIONING, negative)."""
    if family == "unet":
        return case.content, case.style, case.positive, [[case["context"].flip(1) * 2, {}]]
    return (latent(family, CONTENT, 1), latent(family, STYLE, 2), prompt(family, TOKENS),
            prompt(family, TOKENS, seed=1))


@pytest.fixture
def transfer(pack, model, inputs):
    """transfer(device): run(sampled, **injection), with content and style inverted once."""
    content, style, positive, negative = inputs

    def inverted(device):
        [recording] = pack.CaptureSelfAttention(model=model, feature_device=device)
        (noise, features, sigmas), (_, style_features, _) = (
            pack.DDIMInvert(model=recording, latent=each, positive=positive, steps=STEPS, schedule="ddim")
            for each in (content, style))

        def run(sampled, **injection):
            [m] = pack.InjectStyleKV(model=sampled, content_features=features, style_features=style_features,
                                     **injection)
            return sample_custom(m, positive, sigmas, noise, cfg=3.0, negative=negative)["samples"]

        return run

    return inverted


@pytest.mark.parametrize("device", ["auto", "recompute"])
@pytest.mark.parametrize("injection", [dict(), dict(inject_into="cond"), dict(weight=0.6)],
                         ids=["both", "cond", "weight"])
def test_two_devices_give_what_one_gives(transfer, model, split, device, injection, record_property):
    run = transfer(device)
    expected = run(model, **injection)
    for _ in range(3):
        assert relative_error(run(split, **injection), expected) < 1e-5
    record_property("beside", ("ComfyUI", "MultiGPU CFG Split", "composes; an inversion is made on one GPU"))


def test_threads_are_used(transfer, split):
    """Else these tests would show nothing."""
    devices = []

    def watched(apply_model, args):
        devices.append(args["c"]["transformer_options"].get("multigpu_thread_device"))
        return apply_model(args["input"], args["timestep"], **args["c"])

    both = split.clone()
    both.set_model_unet_function_wrapper(watched)
    transfer("auto")(both)
    assert {str(device) for device in devices} == {"cpu", "cpu:0"} and len(devices) == 2 * STEPS


def test_an_inversion_is_made_on_one(pack, model, split, inputs):
    content, _, positive, _ = inputs
    noises = []
    for each in (model, split):
        [recording] = pack.CaptureSelfAttention(model=each)
        noises.append(pack.DDIMInvert(model=recording, latent=content, positive=positive, steps=STEPS,
                                      schedule="ddim")[0]["samples"])
    assert torch.equal(*noises)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_a_hundred_times(transfer, model, split, device):
    run = transfer(device)
    expected = run(model)
    errors = [relative_error(run(split), expected) for _ in range(100)]
    assert max(errors) < 1e-5
