"""StyleID in transformers that attend to picture and prompt in one sequence: small seeded ones of every family that
ComfyUI knows.
"""

import json
import threading
import weakref

import comfy.model_management
import comfy.supported_models
import folder_paths
import pytest
import torch
from cases import free_memory, relative_error
from safetensors import safe_open
from safetensors.torch import save_file
from sequences import (
    CONTENT,
    KNOWN,
    ODD,
    ORDER,
    SETTINGS,
    STEPS,
    STYLE,
    TOKENS,
    captured_in_sampling,
    inverted,
    picture_of,
)

from nodes import KSamplerAdvanced
from styleid_core.storage import size
from styleid_core.style_file import checksum
from tools.demo.transfer import sample_custom
from tools.miniature.transformers import SMALL, latent, load_transformer, prompt
from tools.pack import stylize
from tools.reference import Stylized, formula_in_sequence

MASK = torch.zeros(CONTENT)
MASK[:, 6:] = 1
STYLE_MASK = torch.zeros(STYLE)
STYLE_MASK[4:] = 1


@pytest.fixture(scope="module", params=KNOWN)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return load_transformer(family)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_own_features_change_no_bit(pack, pack_module, model, family, gamma):
    noise, features, sigmas = inverted(pack, model, family, ODD, 1)
    positive = prompt(family, TOKENS)
    own, recorded = captured_in_sampling(pack_module, model, features, sigmas, noise, positive)
    plain = sample_custom(model, positive, sigmas, noise)["samples"]
    assert torch.equal(recorded, plain)
    [m] = pack.InjectStyleKV(model=model, content_features=own, style_features=own, gamma=gamma, temperature=1.0)
    assert torch.equal(sample_custom(m, positive, sigmas, noise)["samples"], plain)


@pytest.mark.parametrize(("content_size", "style_size", "cfg", "options"), [
    (CONTENT, CONTENT, 1.0, [{}]),
    (CONTENT, STYLE, 4.0, [{}]),
    (ODD, STYLE, 1.0, [{}]),
    (CONTENT, STYLE, 1.0, [dict(weight=0.7, mask=MASK), dict(style_mask=STYLE_MASK)]),
], ids=["same size", "cfg", "odd size", "two styles"])
def test_injection_is_the_formula(pack, model, family, content_size, style_size, cfg, options):
    positive, negative = prompt(family, TOKENS), prompt(family, TOKENS, seed=1)
    noise, content, sigmas = inverted(pack, model, family, content_size, 1)
    styles = [inverted(pack, model, family, style_size, 2 + i)[1] for i in range(len(options))]
    formula = formula_in_sequence(model, picture_of(family, content_size), *(
        Stylized(content, style, **SETTINGS, **each) for style, each in zip(styles, options)), order=ORDER.get(family))
    m = model
    for style, each in zip(styles, options):
        [m] = pack.InjectStyleKV(model=m, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                                 temperature=SETTINGS["tau"], **each)
    reference, injected, plain = (sample_custom(patched, positive, sigmas, noise, cfg=cfg, negative=negative)["samples"]
                                  for patched in (formula, m, model))
    assert relative_error(injected, reference) < 1e-4
    assert relative_error(plain, reference) > 1e-3, "the injection makes no difference here"


def test_all_ways_give_the_same(pack, model, family):
    """Five nodes, features kept and recomputed, and the one node; with a batch of contents."""
    positive = prompt(family, TOKENS)
    content, style = latent(family, CONTENT, 1, batch=2), latent(family, STYLE, 2)
    noise, features, sigmas = inverted(pack, model, family, CONTENT, 1, batch=2)
    style_noise, style_features, _ = inverted(pack, model, family, STYLE, 2)
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=features, style_features=style_features)
    five = sample_custom(m, positive, sigmas, start)["samples"]
    inputs = dict(model=model, content=content, style=style, positive=positive, steps=STEPS)
    assert relative_error(stylize(pack, **inputs)["samples"], five) < 1e-5
    assert relative_error(stylize(pack, feature_device="recompute", **inputs)["samples"], five) < 1e-5


def test_recompute_holds_one_block_at_a_time(pack, pack_module, monkeypatch):
    """Of content and style, at most one block each beside the one that is being replaced: never a step."""
    companion = pack_module("nodes.engine.lockstep").Companion
    alive, most, made = weakref.WeakSet(), [], []
    give = companion.__setitem__

    def watched(self, block, tokens):
        alive.update(tokens)
        made.append(block)
        most.append(len(alive))
        give(self, block, tokens)

    monkeypatch.setattr(companion, "__setitem__", watched)
    model = load_transformer("flux", depth=4, depth_single_blocks=8)
    positive, content, style = prompt("flux"), latent("flux", CONTENT, 1), latent("flux", STYLE, 2)
    stylize(pack, model=model, content=content, style=style, positive=positive, steps=2,
            blocks="double 0-3, single 0-5", feature_device="recompute")
    assert len(made) == 2 * 2 * 10, "the last two blocks are not computed"
    assert max(most) <= 3 * 4, "queries, keys and values of each"
    assert "styleid" not in [thread.name for thread in threading.enumerate()]


def test_fireflow(pack, model, family, caplog):
    """In five nodes and in one, kept and recomputed."""
    positive, settings = prompt(family, TOKENS), dict(steps=STEPS, inversion="fireflow")
    if family == "cosmos_predict2":
        with pytest.raises(ValueError, match="The inversion fireflow is for flow models"):
            pack.DDIMInvert(model=model, latent=latent(family, CONTENT, 1), positive=positive, **settings)
        return
    [recording] = pack.CaptureSelfAttention(model=model)
    content, style = latent(family, CONTENT, 1), latent(family, STYLE, 2)
    (noise, features, sigmas), (style_noise, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=each, positive=positive, **settings) for each in (content, style))
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=features, style_features=style_features)
    with pytest.raises(ValueError, match="Use FireFlow Sampler for the inversion fireflow"):
        sample_custom(m, positive, sigmas, start)
    [sampler] = pack.FireFlowSampler()
    with caplog.at_level("INFO", logger="styleid"):
        pack.DDIMInvert(model=model, latent=content, positive=positive, round_trip=True, **settings)
    back = sample_custom(model, positive, sigmas, noise, sampler=sampler)["samples"]
    assert f"ends {100 * relative_error(back, content['samples']):.2f}% away" in caplog.text
    five = sample_custom(m, positive, sigmas, start, sampler=sampler)["samples"]
    inputs = dict(model=model, content=content, style=style, positive=positive, **settings)
    assert relative_error(stylize(pack, **inputs)["samples"], five) < 1e-5
    assert relative_error(stylize(pack, feature_device="recompute", **inputs)["samples"], five) < 1e-5
    assert relative_error(stylize(pack, **inputs | {"inversion": "ddim"})["samples"], five) > 1e-4

def test_the_automatic_temperature_of_own_keys_is_one(pack, pack_module, model, family):
    noise, features, sigmas = inverted(pack, model, family, CONTENT, 1)
    positive = prompt(family, TOKENS)
    own, plain = captured_in_sampling(pack_module, model, features, sigmas, noise, positive)
    [m] = pack.InjectStyleKV(model=model, content_features=own, style_features=own, gamma=0.5, auto_temperature=True)
    assert relative_error(sample_custom(m, positive, sigmas, noise)["samples"], plain) < 1e-5
    [m] = pack.InjectStyleKV(model=model, content_features=own, style_features=own, gamma=0.5, temperature=1.5)
    assert relative_error(sample_custom(m, positive, sigmas, noise)["samples"], plain) > 1e-4


def test_gamma_along_a_curve(pack, model, family):
    """A curve that is one half everywhere is half of gamma."""
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    [curve] = pack.StyleIDCurve(start=0.5, end=0.5)
    inputs = dict(model=model, content_features=content, style_features=style)
    halved, along = (sample_custom(pack.InjectStyleKV(**inputs, **options)[0], positive, sigmas, noise)["samples"]
                     for options in (dict(gamma=0.4), dict(gamma=0.8, gamma_curve=curve)))
    assert relative_error(along, halved) < 1e-6


def test_a_style_from_a_file(pack, model, family, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: [str(tmp_path)])
    monkeypatch.setattr(folder_paths, "get_filename_list", lambda name: [path.name for path in tmp_path.iterdir()])
    monkeypatch.setattr(folder_paths, "get_full_path", lambda folder, name: str(tmp_path / name))
    style_noise, style, sigmas = inverted(pack, model, family, STYLE, 2)
    pack.SaveStyleIDFeatures(noise=style_noise, features=style, sigmas=sigmas)
    [saved] = tmp_path.iterdir()
    read_noise, read, _ = pack.LoadStyleIDFeatures(file=saved.name)
    assert torch.equal(read_noise["samples"], style_noise["samples"])
    inputs = dict(model=model, content=latent(family, CONTENT, 1), positive=prompt(family, TOKENS), steps=STEPS)
    result = stylize(pack, style=read_noise, style_features=read, **inputs)["samples"]
    assert torch.equal(result, stylize(pack, style=latent(family, STYLE, 2), **inputs)["samples"])
    as_version_1(saved)
    _, read, _ = pack.LoadStyleIDFeatures(file=saved.name)
    assert torch.equal(stylize(pack, style=read_noise, style_features=read, **inputs)["samples"], result)


def as_version_1(path):
    """A file as 0.2.0 first wrote it: queries, keys and values side by side, settings as texts."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["header"])
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    for name in [name.removesuffix(".q") for name in tensors if name.endswith(".q")]:
        tensors[name] = torch.cat([tensors.pop(f"{name}.{part}") for part in "qkv"], -1)
    origin = header["origin"]
    settings = {name: str(value) for name, value in origin.pop("settings").items()}
    header |= {"format": 1, "place": header.pop("position"),
               "origin": origin | settings | {"inversion": settings.pop("method")}}
    text, tensors = json.dumps(header), dict(sorted(tensors.items()))
    save_file(tensors, path, {"header": text, "checksum": checksum(text, tensors, lambda: None)})


def test_masks(pack, model, family):
    """What a noise mask leaves out stays, and AdaIN is limited to a mask, also where latents have a frame."""
    content, style = latent(family, CONTENT, 1), latent(family, STYLE, 2)
    mask = torch.zeros(1, 1, *CONTENT)
    mask[..., 6:] = 1
    result = stylize(pack, model=model, content=content | {"noise_mask": mask}, style=style,
                     positive=prompt(family, TOKENS), steps=STEPS)
    changed = (result["samples"] - content["samples"]).abs().amax(1).reshape(CONTENT)
    assert changed[:, :6].max() < 1e-6 < changed[:, 6:].min()

    positive, [recording] = prompt(family, TOKENS), pack.CaptureSelfAttention(model=model)
    (noise, features, sigmas), (_, style_features, _) = (
        pack.DDIMInvert(model=recording, latent=each, positive=positive, steps=STEPS)
        for each in (content | {"noise_mask": mask}, style))
    [m] = pack.InjectStyleKV(model=model, content_features=features, style_features=style_features)
    first = sample_custom(m, positive, sigmas[:3], noise)
    parts, whole = (sample_custom(m, positive, along, latent)["samples"]
                    for along, latent in ((sigmas[2:], first), (sigmas, noise)))
    assert relative_error(parts, whole) < 1e-5, "the mask waits for the end of a sampling in parts"

    [colored] = pack.LatentAdaIN(content=content, style=style, mask=mask[0])
    changed = (colored["samples"] - content["samples"]).abs().amax(1).reshape(CONTENT)
    assert colored["samples"].shape == content["samples"].shape and changed[:, :6].max() < 1e-6 < changed[:, 6:].min()
    half = torch.zeros(1, *STYLE)
    half[..., :STYLE[1] // 2] = 1
    [by_half] = pack.LatentAdaIN(content=content, style=style, style_mask=half)
    left = {"samples": style["samples"][..., :STYLE[1] // 2]}
    [by_left] = pack.LatentAdaIN(content=content, style=left)
    assert relative_error(by_half["samples"], by_left["samples"]) < 1e-5
    [other] = pack.StyleIDStartFrequencies(noise=content)
    assert other["samples"].shape == content["samples"].shape


def test_ksampler_advanced(pack, model, family):
    """It samples from a sigma of 1, where the latent of a flow would be lost."""
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    result = KSamplerAdvanced().sample(m, "disable", 0, STEPS, 1.0, "euler", "simple", positive, positive, noise, 0,
                                       10000, "disable")[0]
    assert relative_error(result["samples"], sample_custom(m, positive, sigmas, noise)["samples"]) < 1e-5


@pytest.mark.parametrize("dtype", ["auto", "int8"])
def test_what_is_kept(pack, model, family, caplog, dtype):
    """As much as was told beforehand; in int8 queries, keys and values each within 1 %, however far apart they are."""
    values = [module for name, module in model.model.diffusion_model.named_modules()
              if name.endswith(("to_v", "v_proj", ".wv"))]
    for module in values:
        module.weight.data /= 10
    with caplog.at_level("INFO", logger="styleid"):
        exact, kept = (inverted(pack, model, family, CONTENT, 1, batch=2, feature_dtype=each)[1].source.steps
                       for each in ("auto", dtype))
    for module in values:
        module.weight.data *= 10
    assert caplog.messages[-1] == f"The features of {STEPS} steps will take {size(kept) / 1e9:.3g} GB of RAM."
    for name in ("q", "k", "v"):
        first, again = (torch.cat([full(getattr(tokens, name)) for step in steps for tokens in step])
                        for steps in (exact, kept))
        assert relative_error(again, first) < (0.01 if dtype == "int8" else 1e-6)


def full(kept) -> torch.Tensor:
    return kept if isinstance(kept, torch.Tensor) else kept.values * kept.scale


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pack, family, dtype):
    if dtype not in getattr(comfy.supported_models, SMALL[family].supported).supported_inference_dtypes:
        pytest.skip("ComfyUI does not run it so")
    model, positive = load_transformer(family, dtype=dtype), prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    assert {x.dtype for x in content.source.steps[0][0]} == {dtype}
    formula = formula_in_sequence(model, picture_of(family, CONTENT), Stylized(content, style, **SETTINGS),
                                  order=ORDER.get(family))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    reference, injected = (sample_custom(patched, positive, sigmas, noise)["samples"] for patched in (formula, m))
    assert relative_error(injected, reference) < (5e-2 if dtype == torch.bfloat16 else 1e-2)


def test_features_that_do_not_fit_are_recomputed(pack, monkeypatch, caplog):
    inputs = dict(model=load_transformer("flux"), content=latent("flux", CONTENT, 1), style=latent("flux", STYLE, 2),
                  positive=prompt("flux", TOKENS), steps=STEPS)
    kept = stylize(pack, **inputs)["samples"]
    # Others, which are not remembered.
    inputs["content"], inputs["style"] = latent("flux", CONTENT, 1), latent("flux", STYLE, 2)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory(1000))
    with caplog.at_level("INFO", logger="styleid"):
        assert torch.equal(stylize(pack, **inputs)["samples"], kept)
    assert sum("They are recomputed at every sampling step" in message for message in caplog.messages) == 2
    with pytest.raises(ValueError, match="Set feature_dtype to int8, or feature_device to recompute"):
        stylize(pack, feature_device="cpu", **inputs)


@pytest.mark.parametrize(("family", "other", "message"), [
    ("wan", "flux", r"works on \[batch, 16, 1, height, width\]"),
    ("flux", "wan", r"works on \[batch, 16, height, width\]")])
def test_latents_of_another_kind_are_refused(pack, family, other, message):
    model, positive = load_transformer(family), prompt(family)
    with pytest.raises(ValueError, match=message):
        pack.DDIMInvert(model=model, latent=latent(other, CONTENT, 1), positive=positive, steps=2)
    with pytest.raises(ValueError, match="one of them has frames"):
        pack.LatentAdaIN(content=latent(family, CONTENT, 1), style=latent(other, CONTENT, 1))


def test_a_video_is_refused(pack):
    model = load_transformer("wan")
    with pytest.raises(ValueError, match="Connect a picture through VAE Encode; video"):
        pack.DDIMInvert(model=model, latent={"samples": torch.randn(1, 16, 3, 8, 8)}, positive=prompt("wan"), steps=2)
