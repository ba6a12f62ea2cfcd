"""Where features are kept, recomputing them, and how many calls of the UNet a transfer takes."""

import gc
from types import SimpleNamespace

import comfy.model_management
import pytest
import torch
from cases import relative_error
from companions import COMPANY

from styleid_core.storage import size
from tools.demo.transfer import sample_custom
from tools.pack import stylize

RAM = torch.device("cpu")
STEPS = 4


@pytest.fixture
def unet_calls(model):
    """The batch size of every call of the UNet, in order."""
    sizes = []
    handle = model.model.diffusion_model.time_embed.register_forward_hook(
        lambda module, args, output: sizes.append(len(output)))
    yield sizes
    handle.remove()


@pytest.fixture
def pair(case):
    """Content and style of one size, so that they fit in one batch."""
    side = min(*case.content["samples"].shape[-2:], *case.style["samples"].shape[-2:])
    return [{"samples": latent["samples"][..., :side, :side]} for latent in (case.content, case.style)]


@pytest.fixture
def five_nodes(pack, model, case):
    """five_nodes(device, content, style): the latent of the five-node graph with what is captured kept on `device`."""
    def run(device, content, style, capturing=model, sampling=model, schedule="official", **settings):
        [recording] = pack.CaptureSelfAttention(model=capturing, blocks="6-11", feature_device=device)
        (noise, content_features, sigmas), (style_noise, style_features, _) = (
            pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=STEPS, schedule=schedule)
            for latent in (content, style))
        [start] = pack.LatentAdaIN(content=noise, style=style_noise)
        [m] = pack.InjectStyleKV(model=sampling, content_features=content_features, style_features=style_features)
        return sample_custom(m, case.positive, sigmas, start, **settings)["samples"]

    return run


SITUATIONS = {
    "one size": {},
    "ddim": dict(schedule="ddim"),
    "guidance": dict(cfg=3.0),
    "heun": dict(sampler="heun"),
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("same_size", [True, False])
def test_recomputed_features_give_the_same(five_nodes, case, pair, situation, same_size):
    content, style = pair if same_size else (case.content, {"samples": case.style["samples"][..., ::2]})
    kept, recomputed = (five_nodes(device, content, style, **SITUATIONS[situation]) for device in ("auto", "recompute"))
    assert relative_error(recomputed, kept) < 1e-4


@pytest.mark.parametrize("name", COMPANY)
def test_recomputing_beside_other_nodes(five_nodes, model, pair, name):
    """The other node is on the model that samples and, for weights, on the one that is inverted: only those are shared.
    """
    sampling = COMPANY[name](model)
    models = dict(capturing=sampling if name == "LoRA" else model, sampling=sampling)
    kept, recomputed = (five_nodes(device, *pair, **models) for device in ("auto", "recompute"))
    assert relative_error(recomputed, kept) < 1e-4


@pytest.mark.parametrize(("contents", "styles"), [(2, 1), (2, 2), (1, 2)])
def test_recomputing_for_frames(five_nodes, pair, contents, styles):
    content, style = pair
    frames, styles = ({"samples": torch.cat([latent["samples"].roll(i, -1) for i in range(count)])}
                      for latent, count in ((content, contents), (style, styles)))
    kept, recomputed = (five_nodes(device, frames, styles) for device in ("auto", "recompute"))
    assert relative_error(recomputed, kept) < 1e-4


def test_recomputing_keeps_latents_and_prompts(pack, model, case):
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device="recompute")
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=STEPS,
                                     schedule="ddim")
    assert size(features.source.calls) == STEPS * (case.content["samples"].nbytes + case.positive[0][0].nbytes
                                                   + 4), "4: the timestep"


def test_one_node_inverts_both_at_once(pack, model, case, pair, unet_calls):
    inputs = dict(model=model, positive=case.positive, steps=STEPS)
    one_size = stylize(pack, content=pair[0], style=pair[1], **inputs)
    assert unet_calls == [2] * STEPS + [1] * STEPS
    unet_calls.clear()
    stylize(pack, content=case.content, style={"samples": case.style["samples"][..., ::2]}, **inputs)
    assert unet_calls == [1] * 3 * STEPS
    unet_calls.clear()
    recomputed = stylize(pack, content=pair[0], style=pair[1], feature_device="recompute", **inputs)
    assert unet_calls == [2] * STEPS + [2, 1] * STEPS
    assert relative_error(recomputed["samples"], one_size["samples"]) < 1e-4


def test_one_node_with_little_memory(pack, pack_module, model, case, pair, unet_calls, monkeypatch):
    """Content and style run one after the other."""
    inputs = dict(model=model, positive=case.positive, steps=STEPS, content=pair[0], style=pair[1])
    together = stylize(pack, **inputs)
    unet_calls.clear()
    need = model.memory_required([2, *pair[0]["samples"].shape[1:]])
    monkeypatch.setattr(pack_module("nodes.engine.memory"), "room", lambda model: 1.5 * need)
    apart = stylize(pack, feature_device="recompute", **inputs)
    assert unet_calls == [1] * 2 * STEPS + [1, 1, 1] * STEPS
    assert relative_error(apart["samples"], together["samples"]) < 1e-4


def test_calls_at_one_sigma_recompute_once(pack, model, case, pair, unet_calls):
    """heun evaluates the end of a step and then again the start of the next."""
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device="recompute")
    (noise, content, sigmas), (_, style, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=STEPS, schedule="ddim")
        for latent in pair)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    unet_calls.clear()
    sample_custom(m, case.positive, sigmas, noise, sampler="heun")
    assert unet_calls == [2, 1, 2, 1, 1, 2, 1, 1, 2, 1, 1]


def test_a_run_that_recomputes_leaves_no_trace(pack, model, case, pair):
    before = repr(model.model_options)
    stylize(pack, model=model, content=pair[0], style=pair[1], positive=case.positive, steps=STEPS,
            feature_device="recompute")
    assert repr(model.model_options) == before


GPU = torch.device("meta")  # another device than RAM, which is all that the choice depends on
FITS, SHORT = 1e12, 1e5


@pytest.mark.parametrize(("device", "free_on_gpu", "free_in_ram", "expected"), [
    ("auto", FITS, FITS, RAM), ("auto", FITS, SHORT, GPU), ("gpu", FITS, SHORT, GPU), ("cpu", FITS, FITS, RAM),
    ("recompute", SHORT, SHORT, RAM),
    ("auto", SHORT, SHORT, "0.0001 GB of RAM and 0 GB of GPU memory are free. .* or feature_device to recompute"),
    ("gpu", SHORT, FITS, "only 0 GB of GPU memory are free. .* or feature_device to auto or recompute"),
    ("cpu", FITS, SHORT, "only 0.0001 GB of RAM are free. .* or feature_device to recompute")])
def test_the_place_of_features(pack_module, model, monkeypatch, caplog, device, free_on_gpu, free_in_ram, expected):
    def get_free_memory(device, torch_free_too=False):
        free = {GPU: free_on_gpu, RAM: free_in_ram}[device]
        return (free, 0) if torch_free_too else free

    monkeypatch.setattr(comfy.model_management, "get_free_memory", get_free_memory)
    m = model.clone()
    m.load_device = GPU
    memory, capture = pack_module("nodes.engine.memory"), pack_module("nodes.engine.capture")
    request = capture.requested_capture(capture.request_capture(m, "6-11", "fp16", device))
    size = memory.feature_bytes(m, request, [1, 4, 16, 24], 20)

    def make_room():
        return memory.make_room(m, request, [1, 4, 16, 24], 20)

    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            make_room()
        return
    with caplog.at_level("INFO", logger="styleid"):
        kept_on = make_room()
    assert kept_on == expected
    assert caplog.messages == ([] if device == "recompute" else
                               [f"The features of 20 steps will take {size / 1e9:.3g} GB of "
                                f"{'RAM' if kept_on == RAM else 'GPU memory'}."])


@pytest.fixture
def locked(monkeypatch):
    """What ComfyUI has page-locked, by address; `locked.allowed` is its answer."""
    addresses = SimpleNamespace(now=set(), allowed=True)

    def pin_memory(tensor):
        addresses.now |= {tensor.data_ptr()} if addresses.allowed else set()
        return addresses.allowed

    monkeypatch.setattr(comfy.model_management, "pin_memory", pin_memory)
    monkeypatch.setattr(comfy.model_management, "unpin_memory", lambda tensor: addresses.now.remove(tensor.data_ptr()))
    return addresses


@pytest.fixture
def keep(pack_module, monkeypatch):
    """What keeps tensors of a GPU in RAM."""
    memory = pack_module("nodes.engine.memory")
    monkeypatch.setattr(memory.Slabs, "SLAB", 2048)
    return memory.keeper(torch.device("cuda"), RAM)


@pytest.mark.parametrize("allowed", [True, False])
def test_tensors_share_slabs_and_nothing_else(keep, locked, allowed):
    locked.allowed = allowed
    tensors = [torch.randn(count).to(dtype) for count, dtype in ((3, torch.half), (100, torch.float), (7, torch.int8),
                                                                 (300, torch.float),
                                                                (2000, torch.float), (5, torch.bfloat16))]
    kept = [keep(tensor) for tensor in tensors]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(kept, tensors))
    slabs = {each.untyped_storage().data_ptr() for each in kept}
    assert len(slabs) == 4, "for three, for one, for what is larger, for the rest"
    assert locked.now == (slabs if allowed else set()), "by ComfyUI's own budget, which may say no"


def test_page_locked_memory_is_given_back_with_the_last_tensor(pack_module, locked):
    keep = pack_module("nodes.engine.memory").keeper(torch.device("cuda"), RAM)
    kept = pack_module("styleid_core.features").Kept([[keep(torch.randn(30))], [keep(torch.randn(30))]])
    del keep, kept.steps[0]
    gc.collect()
    assert len(locked.now) == 1, "another tensor is there yet"
    del kept
    gc.collect()
    assert not locked.now
