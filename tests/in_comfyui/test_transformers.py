"""StyleID in transformers that attend to picture and prompt in one sequence: small seeded ones of every family that ComfyUI knows."""

import inspect
import threading
import weakref

import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.cosmos.predict2
import comfy.ldm.flux.controlnet
import comfy.ldm.qwen_image.controlnet
import comfy.model_management
import comfy.ops
import comfy.sd
import comfy.supported_models
import folder_paths
import pytest
import torch
from cases import relative_error
from comfy_extras.nodes_torch_compile import TorchCompileModel

from nodes import KSamplerAdvanced
from tools.demo.transfer import sample_custom
from tools.miniature.transformers import SMALL, latent, load_transformer, prompt
from tools.miniature.unet import seeded_tensor
from tools.pack import stylize
from tools.reference import Stylized, formula_in_sequence

TELLS_BLOCKS = "block_index" in inspect.getsource(comfy.ldm.cosmos.predict2)  # older ones do not
KNOWN = [name for name, small in SMALL.items() if hasattr(comfy.supported_models, small.supported)
         and (TELLS_BLOCKS or small.config.get("image_model") not in ("cosmos_predict2", "anima"))]
STEPS = 4
CONTENT, STYLE, ODD = (16, 12), (12, 18), (15, 13)  # sizes of latents
TOKENS = 7  # of the prompt
ORDER = {"sd35": [("double", 0, 0), ("double", 0, 1), ("double", 1, 0), ("double", 1, 1), ("double", 2, 0)]}  # of its calls of attention
PADDED = {"z_image": 32, "flux2": 512}  # families that fill prompts up to so many tokens


@pytest.fixture(scope="module", params=KNOWN)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return load_transformer(family)


def inverted(pack, model, family: str, size: tuple[int, int], seed: int, batch: int = 1, steps: int = STEPS, positive: list | None = None,
             **capture) -> tuple:
    """(noise, features, sigmas)."""
    [recording] = pack.CaptureSelfAttention(model=model, **capture)
    positive = positive or prompt(family, TOKENS)
    return pack.DDIMInvert(model=recording, latent=latent(family, size, seed, batch), positive=positive, steps=steps)


def tokens_of(family: str, size: tuple[int, int]) -> int:
    patch = 1 if family == "flux2" else 2
    return (size[0] + patch - 1) // patch * ((size[1] + patch - 1) // patch)


def picture_of(family: str, size: tuple[int, int], text: int = TOKENS) -> slice:
    """Where the picture's tokens are."""
    start = 0 if family in ("cosmos_predict2", "anima", "wan") else max(text, PADDED.get(family, 0))
    return slice(start, start + tokens_of(family, size))


def captured_in_sampling(pack_module, model, features, sigmas, noise, positive):
    """`features` with those of a sampling run in place of the inversion's."""
    family = pack_module("nodes.engine.families").family_of(model)
    m, seen, steps, at = model.clone(), {}, [], []

    def wrapper(executor, *arguments, **kwargs):
        output = executor(*arguments, **kwargs)
        steps.insert(0, [seen[block].clone() for block in features.blocks])
        at.insert(0, float(arguments[-1]["sigmas"][0]))
        return output

    m.add_wrapper_with_key(family.WRAPPED, "test", wrapper)
    size = noise["samples"].shape[-2:]
    family.record(model, m.model_options["transformer_options"], features.blocks, seen, (len(noise["samples"]), *size))
    plain = sample_custom(m, positive, sigmas, noise)["samples"]
    return features._replace(sigmas=at, source=features.source._replace(steps=steps)), plain


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_own_features_change_no_bit(pack, pack_module, model, family, gamma):
    noise, features, sigmas = inverted(pack, model, family, ODD, 1)
    positive = prompt(family, TOKENS)
    own, recorded = captured_in_sampling(pack_module, model, features, sigmas, noise, positive)
    plain = sample_custom(model, positive, sigmas, noise)["samples"]
    assert torch.equal(recorded, plain)
    [m] = pack.InjectStyleKV(model=model, content_features=own, style_features=own, gamma=gamma, temperature=1.0)
    assert torch.equal(sample_custom(m, positive, sigmas, noise)["samples"], plain)


SETTINGS = dict(gamma=0.6, tau=1.3)
MASK = torch.zeros(CONTENT)
MASK[:, 6:] = 1
STYLE_MASK = torch.zeros(STYLE)
STYLE_MASK[4:] = 1


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

    def watched(self, block, n):
        alive.add(n)
        made.append(block)
        most.append(len(alive))
        give(self, block, n)

    monkeypatch.setattr(companion, "__setitem__", watched)
    model = load_transformer("flux", depth=4, depth_single_blocks=8)
    positive, content, style = prompt("flux"), latent("flux", CONTENT, 1), latent("flux", STYLE, 2)
    stylize(pack, model=model, content=content, style=style, positive=positive, steps=2, blocks="double 0-3, single 0-5",
            feature_device="recompute")
    assert len(made) == 2 * 2 * 10, "the last two blocks are not computed"
    assert max(most) <= 4
    assert "styleid" not in [thread.name for thread in threading.enumerate()]


def with_lora(model):
    """A clone with a LoRA on the queries, keys and values of every block."""
    parts = ("qkv", "linear1", "to_q", "to_k", "attn.wq", "attn.wk", "q_proj", "attn.q.")
    weights = {name: tensor for name, tensor in model.model.diffusion_model.state_dict().items()
               if tensor.ndim == 2 and any(part in name for part in parts)}
    lora = {}
    for name, tensor in weights.items():
        key = f"diffusion_model.{name.removesuffix('.weight')}"
        lora[f"{key}.lora_up.weight"] = seeded_tensor(f"{key} up", (len(tensor), 2), 0, 1.0)
        lora[f"{key}.lora_down.weight"] = seeded_tensor(f"{key} down", (2, tensor.shape[1]), 0, 1.0)
    return comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0.0)[0]


def flux_controlnet():
    config = SMALL["flux"].config | dict(in_channels=16, dtype=torch.float32)
    network = comfy.ldm.flux.controlnet.ControlNetFlux(latent_input=True, control_latent_channels=16,
                                                       operations=comfy.ops.disable_weight_init, **config)
    return network, comfy.latent_formats.Flux(), ["y", "guidance"]


def qwen_controlnet():
    config = SMALL["qwen_image"].config | dict(dtype=torch.float32)
    network = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(operations=comfy.ops.disable_weight_init, **config)
    return network, comfy.latent_formats.Wan21(), []


class AsVAE:
    """In place of a VAE, which ControlNets of latents ask to encode their picture."""

    def __init__(self, encoded):
        self.encoded = encoded
        self.downscale_ratio = 8

    def encode(self, picture):
        return self.encoded

    def spacial_compression_encode(self):
        return 8


def controlled(make, family: str, positive: list) -> list:
    """CONDITIONING with a ControlNet of the family."""
    network, latent_format, extra_conds = make()
    network.load_state_dict({name: seeded_tensor(name, tuple(tensor.shape), 3, 1.0) for name, tensor in network.state_dict().items()})
    control = comfy.controlnet.ControlNet(network.eval().requires_grad_(False), compression_ratio=1, latent_format=latent_format,
                                          load_device=torch.device("cpu"), extra_conds=extra_conds)
    control.set_cond_hint(torch.rand(1, 3, 8 * CONTENT[0], 8 * CONTENT[1]), vae=AsVAE(latent(family, CONTENT, 9)["samples"]))
    return [[text, entry | {"control": control, "control_apply_to_uncond": True}] for text, entry in positive]


def check_formula(pack, model, family: str, positive: list, picture: slice) -> torch.Tensor:
    """Injection beside the formula on a model and a prompt, kept and recomputed; gives the noise of the content."""
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1, positive=positive)
    _, style, _ = inverted(pack, model, family, CONTENT, 2, positive=positive)
    formula = formula_in_sequence(model, picture, Stylized(content, style, **SETTINGS), order=ORDER.get(family))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    reference, injected, plain = (sample_custom(patched, positive, sigmas, noise)["samples"] for patched in (formula, m, model))
    assert relative_error(injected, reference) < 1e-4
    assert relative_error(plain, reference) > 1e-3
    recomputed = inverted(pack, model, family, CONTENT, 2, positive=positive, feature_device="recompute")[1]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=recomputed, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    assert relative_error(sample_custom(m, positive, sigmas, noise)["samples"], injected) < 1e-5
    return noise["samples"]


def test_a_lora(pack, model, family):
    positive, picture = prompt(family, TOKENS), picture_of(family, CONTENT)
    changed = check_formula(pack, with_lora(model), family, positive, picture)
    assert relative_error(changed, inverted(pack, model, family, CONTENT, 1)[0]["samples"]) > 1e-3


@pytest.mark.parametrize(("family", "make"), [("flux", flux_controlnet), ("qwen_image", qwen_controlnet)])
def test_a_controlnet(pack, family, make):
    model = load_transformer(family)
    positive = controlled(make, family, prompt(family, TOKENS))
    changed = check_formula(pack, model, family, positive, picture_of(family, CONTENT))
    assert relative_error(changed, inverted(pack, model, family, CONTENT, 1)[0]["samples"]) > 1e-3


REFERENCE = (10, 14)


@pytest.mark.parametrize("family", [name for name in ("flux", "flux2", "qwen_image", "krea2") if name in KNOWN])
def test_reference_latents(pack, family):
    """Editing models are shown a picture behind the one they make: its tokens stay as they are."""
    model = load_transformer(family, **{"default_ref_method": "index"} if family == "krea2" else {})
    entry = {"reference_latents": [latent(family, REFERENCE, 5)["samples"]]}
    positive = [[text, more | entry] for text, more in prompt(family, TOKENS)]
    changed = check_formula(pack, model, family, positive, picture_of(family, CONTENT))
    assert relative_error(changed, inverted(pack, model, family, CONTENT, 1)[0]["samples"]) > 1e-3


@pytest.mark.parametrize("tokens", [3, 40])
def test_the_styles_prompt_may_be_longer_or_shorter(pack, model, family, tokens):
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2, positive=prompt(family, tokens, seed=4))
    positive = prompt(family, TOKENS)
    formula = formula_in_sequence(model, picture_of(family, CONTENT), Stylized(content, style, **SETTINGS), order=ORDER.get(family))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    reference, injected = (sample_custom(patched, positive, sigmas, noise)["samples"] for patched in (formula, m))
    assert relative_error(injected, reference) < 1e-4


def test_what_another_pack_put_in_place_of_attention_is_called(pack, model, family):
    calls = []

    def override(function, *args, **kwargs):
        calls.append(args[0].shape)
        return function(*args, **kwargs)

    other = model.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = override
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    sample_custom(other, positive, sigmas, noise)
    plain = len(calls)
    calls.clear()
    inputs = dict(content_features=content, style_features=style)
    injected, beside = (sample_custom(pack.InjectStyleKV(model=each, **inputs)[0], positive, sigmas, noise)["samples"]
                        for each in (model, other))
    assert torch.equal(injected, beside)
    assert len(calls) >= plain > 0, "others' attention is called for the picture, and for the rest of the sequence"
    calls.clear()
    inverted(pack, other, family, CONTENT, 1)
    assert len(calls) == plain


@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_an_interrupt_leaves_nothing(pack, model, family, device):
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1, feature_device=device)
    _, style, _ = inverted(pack, model, family, STYLE, 2, feature_device=device)
    plain = sample_custom(model, positive, sigmas, noise)["samples"]
    options = repr(sorted(model.model_options["transformer_options"]))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    calls = []

    def interrupting(function, *args, **kwargs):
        calls.append(None)
        if len(calls) == 5:
            raise comfy.model_management.InterruptProcessingException
        return function(*args, **kwargs)

    m.model_options["transformer_options"]["optimized_attention_override"] = interrupting
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample_custom(m, positive, sigmas, noise)
    assert "styleid" not in [thread.name for thread in threading.enumerate()]
    assert repr(sorted(model.model_options["transformer_options"])) == options
    assert torch.equal(sample_custom(model, positive, sigmas, noise)["samples"], plain)


def test_a_mask_between_parts_of_the_picture_is_refused(pack):
    model, positive = load_transformer("flux"), prompt("flux", TOKENS)
    noise, content, sigmas = inverted(pack, model, "flux", CONTENT, 1)
    length = TOKENS + tokens_of("flux", CONTENT)
    regional = torch.zeros(1, length, length)
    regional[:, -3:, TOKENS:TOKENS + 5] = -torch.inf

    m = model.clone()
    m.set_model_patch_replace(lambda args, extra: extra["original_block"](args | {"attn_mask": regional}), "dit", "double_block", 1)
    [m] = pack.InjectStyleKV(model=m, content_features=content, style_features=content)
    with pytest.raises(ValueError, match="masks the attention between parts of the picture"):
        sample_custom(m, positive, sigmas, noise)


def test_a_mask_over_the_prompt_is_kept(pack):
    """Padding of a prompt is masked for every token of the picture: styles of another size get columns of their own."""
    model = load_transformer("qwen_image")
    mask = torch.ones(1, TOKENS, dtype=torch.long)
    mask[:, -2:] = 0
    positive = [[text, entry | {"attention_mask": mask}] for text, entry in prompt("qwen_image", TOKENS)]
    shorter = [[text[:, :-2], entry] for text, entry in prompt("qwen_image", TOKENS)]
    noise, content, sigmas = inverted(pack, model, "qwen_image", CONTENT, 1, positive=positive)
    _, style, _ = inverted(pack, model, "qwen_image", STYLE, 2, positive=positive)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    masked, cut = (sample_custom(m, each, sigmas, noise)["samples"] for each in (positive, shorter))
    assert relative_error(masked, cut) < 1e-4


def test_a_video_is_refused(pack):
    model = load_transformer("wan")
    with pytest.raises(ValueError, match="Connect a picture through VAE Encode; video"):
        pack.DDIMInvert(model=model, latent={"samples": torch.randn(1, 16, 3, 8, 8)}, positive=prompt("wan"), steps=2)


def test_fireflow(pack, model, family):
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
    assert torch.equal(stylize(pack, style=read_noise, style_features=read, **inputs)["samples"],
                       stylize(pack, style=latent(family, STYLE, 2), **inputs)["samples"])


def test_masks(pack, model, family):
    """What a noise mask leaves out stays, and AdaIN is limited to a mask, also where latents have a frame."""
    content, style = latent(family, CONTENT, 1), latent(family, STYLE, 2)
    mask = torch.zeros(1, 1, *CONTENT)
    mask[..., 6:] = 1
    result = stylize(pack, model=model, content=content | {"noise_mask": mask}, style=style, positive=prompt(family, TOKENS), steps=STEPS)
    changed = (result["samples"] - content["samples"]).abs().amax(1).reshape(CONTENT)
    assert changed[:, :6].max() < 1e-6 < changed[:, 6:].min()

    [colored] = pack.LatentAdaIN(content=content, style=style, mask=mask[0])
    changed = (colored["samples"] - content["samples"]).abs().amax(1).reshape(CONTENT)
    assert colored["samples"].shape == content["samples"].shape and changed[:, :6].max() < 1e-6 < changed[:, 6:].min()
    [other] = pack.StyleIDStartFrequencies(noise=content)
    assert other["samples"].shape == content["samples"].shape


def test_ksampler_advanced(pack, model, family):
    """It samples from a sigma of 1, where the latent of a flow would be lost."""
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    result = KSamplerAdvanced().sample(m, "disable", 0, STEPS, 1.0, "euler", "simple", positive, positive, noise, 0, 10000, "disable")[0]
    assert relative_error(result["samples"], sample_custom(m, positive, sigmas, noise)["samples"]) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(pack, family, dtype):
    if dtype not in getattr(comfy.supported_models, SMALL[family].supported).supported_inference_dtypes:
        pytest.skip("ComfyUI does not run it so")
    model, positive = load_transformer(family, dtype=dtype), prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    assert content.source.steps[0][0].dtype == dtype
    formula = formula_in_sequence(model, picture_of(family, CONTENT), Stylized(content, style, **SETTINGS), order=ORDER.get(family))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    reference, injected = (sample_custom(patched, positive, sigmas, noise)["samples"] for patched in (formula, m))
    assert relative_error(injected, reference) < (5e-2 if dtype == torch.bfloat16 else 1e-2)


def test_a_compiled_model(pack):
    model, positive = load_transformer("z_image"), prompt("z_image", TOKENS)
    compiled = TorchCompileModel().execute(model, "cudagraphs").result[0]
    compiled.model_options["torch_compile_kwargs"]["backend"] = "eager"
    inputs = dict(content=latent("z_image", CONTENT, 1), style=latent("z_image", STYLE, 2), positive=positive, steps=2)
    assert relative_error(stylize(pack, model=compiled, **inputs)["samples"], stylize(pack, model=model, **inputs)["samples"]) < 1e-4


def test_features_that_do_not_fit_are_recomputed(pack, monkeypatch, caplog):
    inputs = dict(model=load_transformer("flux"), content=latent("flux", CONTENT, 1), style=latent("flux", STYLE, 2),
                  positive=prompt("flux", TOKENS), steps=STEPS)
    kept = stylize(pack, **inputs)["samples"]
    inputs["content"], inputs["style"] = latent("flux", CONTENT, 1), latent("flux", STYLE, 2)  # others, which are not remembered
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: 1000)
    with caplog.at_level("INFO", logger="styleid"):
        assert torch.equal(stylize(pack, **inputs)["samples"], kept)
    assert sum("They are recomputed at every sampling step" in message for message in caplog.messages) == 2
    with pytest.raises(ValueError, match="Set feature_dtype to int8, or feature_device to recompute"):
        stylize(pack, feature_device="cpu", **inputs)


@pytest.mark.parametrize(("family", "other", "message"), [
    ("wan", "flux", r"works on \[batch, 16, 1, height, width\]"), ("flux", "wan", r"works on \[batch, 16, height, width\]")])
def test_latents_of_another_kind_are_refused(pack, family, other, message):
    model, positive = load_transformer(family), prompt(family)
    with pytest.raises(ValueError, match=message):
        pack.DDIMInvert(model=model, latent=latent(other, CONTENT, 1), positive=positive, steps=2)
    with pytest.raises(ValueError, match="one of them has frames"):
        pack.LatentAdaIN(content=latent(family, CONTENT, 1), style=latent(other, CONTENT, 1))
