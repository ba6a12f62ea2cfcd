"""Transformers with what else people connect: LoRAs, ControlNets, pictures to edit, guidance, and other packs."""

import importlib
import inspect
import threading
from itertools import product

import comfy.cldm.dit_embedder
import comfy.controlnet
import comfy.latent_formats
import comfy.ldm.flux.controlnet
import comfy.ldm.lumina.controlnet
import comfy.ldm.lumina.model
import comfy.ldm.modules.attention
import comfy.ldm.qwen_image.controlnet
import comfy.model_management
import comfy.ops
import comfy.sd
import pytest
import torch
from cases import free_memory, relative_error
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import CallbacksMP
from comfy_extras.nodes_model_patch import QwenImageDiffsynthControlnet
from comfy_extras.nodes_torch_compile import TorchCompileModel
from sequences import CONTENT, KNOWN, PADDED, STEPS, STYLE, TOKENS, check_formula, inverted, picture_of, tokens_of

from tools.demo.transfer import sample_custom
from tools.miniature.transformers import POOLED, SMALL, latent, load_transformer, prompt
from tools.miniature.unet import seeded_tensor
from tools.pack import stylize

REFERENCE = (10, 14)


@pytest.fixture(scope="module", params=KNOWN)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return load_transformer(family)


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


def test_a_lora(pack, model, family):
    positive, picture = prompt(family, TOKENS), picture_of(family, CONTENT)
    changed = check_formula(pack, with_lora(model), family, positive, picture)
    assert relative_error(changed, inverted(pack, model, family, CONTENT, 1)[0]["samples"]) > 1e-3


OPERATIONS = comfy.ops.disable_weight_init


def patcher_of(network: torch.nn.Module) -> ModelPatcher:
    return ModelPatcher(network, comfy.model_management.get_torch_device(), torch.device("cpu"))


def flux_controlnet(**options):
    config = SMALL["flux"].config | dict(in_channels=16, dtype=torch.float32)
    network = comfy.ldm.flux.controlnet.ControlNetFlux(
        latent_input=True, control_latent_channels=16, operations=OPERATIONS, **config)
    return comfy.controlnet.ControlNet(seeded(network), latent_format=comfy.latent_formats.Flux(),
                                       extra_conds=["y", "guidance"], **options)


def qwen_controlnet(**options):
    config = SMALL["qwen_image"].config | dict(dtype=torch.float32)
    network = comfy.ldm.qwen_image.controlnet.QwenImageControlNetModel(operations=OPERATIONS, **config)
    return comfy.controlnet.ControlNet(seeded(network), latent_format=comfy.latent_formats.Wan21(), extra_conds=[],
                                       **options)


def sd35_controlnet(**options):
    network = comfy.cldm.dit_embedder.ControlNetEmbedder(None, patch_size=2, in_chans=16, attention_head_dim=64,
                                                         num_attention_heads=2, adm_in_channels=POOLED, num_layers=2,
                                                         main_model_double=3, double_y_emb=False,
                                                         device=torch.device("cpu"), dtype=torch.float32,
                                                         operations=OPERATIONS)
    return comfy.controlnet.ControlNetSD35(seeded(network), latent_format=comfy.latent_formats.SD3(), **options)


def seeded(network: torch.nn.Module) -> torch.nn.Module:
    network.load_state_dict({name: seeded_tensor(name, tuple(tensor.shape), 3, 1.0)
                             for name, tensor in network.state_dict().items()})
    return network.eval().requires_grad_(False)


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
    control = make(compression_ratio=1, load_device=comfy.model_management.get_torch_device())
    control.set_cond_hint(torch.rand(1, 3, 8 * CONTENT[0], 8 * CONTENT[1]),
                          vae=AsVAE(latent(family, CONTENT, 9)["samples"]))
    return [[text, entry | {"control": control, "control_apply_to_uncond": True}] for text, entry in positive]


@pytest.mark.parametrize(("family", "make"), [("flux", flux_controlnet), ("qwen_image", qwen_controlnet),
                                              ("sd35", sd35_controlnet)])
def test_a_controlnet(pack, family, make):
    model = load_transformer(family)
    positive = controlled(make, family, prompt(family, TOKENS))
    changed = check_formula(pack, model, family, positive, picture_of(family, CONTENT))
    assert relative_error(changed, inverted(pack, model, family, CONTENT, 1)[0]["samples"]) > 1e-3


def test_the_controlnet_of_z_image(pack):
    """A patch of the model that remembers where it is among the blocks, and so cannot meet two calls at a time."""
    model, positive = load_transformer("z_image"), prompt("z_image", TOKENS)
    network = seeded(comfy.ldm.lumina.controlnet.ZImage_Control(dim=256, n_heads=4, n_kv_heads=4, multiple_of=16,
                                                                ffn_dim_multiplier=0.5, n_control_layers=15,
                                                                dtype=torch.float32, operations=OPERATIONS))
    vae, picture = AsVAE(latent("z_image", CONTENT, 9)["samples"]), torch.rand(1, 8 * CONTENT[0], 8 * CONTENT[1], 3)
    [controlled] = QwenImageDiffsynthControlnet().diffsynth_controlnet(model, patcher_of(network), vae, picture, 1.0)
    changed = check_formula(pack, controlled, "z_image", positive, picture_of("z_image", CONTENT))
    assert relative_error(changed, inverted(pack, model, "z_image", CONTENT, 1)[0]["samples"]) > 1e-3


@pytest.mark.skipif("anima" not in KNOWN, reason="this ComfyUI does not serve Anima's attention")
def test_the_controlnet_of_anima(pack):
    """LLLite: patches of what enters queries, keys and values."""
    nodes, lllite = (importlib.import_module(name) for name in ("comfy_extras.nodes_model_patch",
                                                                "comfy.ldm.anima.lllite"))
    model, positive, conditioning = load_transformer("anima"), prompt("anima", TOKENS), "lllite_conditioning1"
    shapes = {f"{conditioning}.conv1.weight": (8, 3, 4, 4), f"{conditioning}.conv3.weight": (16, 8, 4, 4),
              f"{conditioning}.proj.weight": (12, 16, 1, 1)}
    for number, name in product(range(3), "qkv"):
        shapes |= {f"lllite_dit_blocks_{number}_self_attn_{name}_proj.{part}.weight": shape
                   for part, shape in (("down", (6, 64)), ("cond_to_film", (12, 12)))}
    weights = {name: torch.empty(shape) for name, shape in shapes.items()}
    network = lllite.AnimaLLLite(weights, {}, dtype=torch.float32, operations=OPERATIONS)
    picture = torch.rand(1, 8 * CONTENT[0], 8 * CONTENT[1], 3)
    [controlled] = nodes.AnimaLLLiteApply().apply_patch(model, patcher_of(seeded(network)), picture, 1.0, 0.0, 1.0)
    changed = check_formula(pack, controlled, "anima", positive, picture_of("anima", CONTENT))
    assert relative_error(changed, inverted(pack, model, "anima", CONTENT, 1)[0]["samples"]) > 1e-3


def test_guidance_in_two_calls(pack, model, family, monkeypatch):
    """Where memory is short ComfyUI asks the model for one prompt after the other."""
    positive, negative = prompt(family, TOKENS), prompt(family, TOKENS, seed=1)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    batches = []

    def counted(apply, args):
        batches.append(len(args["input"]))
        return apply(args["input"], args["timestep"], **args["c"])

    m.set_model_unet_function_wrapper(counted)
    together = sample_custom(m, positive, sigmas, noise, cfg=4.0, negative=negative)["samples"]
    monkeypatch.setattr(ModelPatcher, "get_free_memory", lambda self, device: 0)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", free_memory(0))
    split = sample_custom(m, positive, sigmas, noise, cfg=4.0, negative=negative)["samples"]
    assert batches == [2] * STEPS + [1] * 2 * STEPS
    assert relative_error(split, together) < 1e-4


@pytest.mark.parametrize("family", [name for name in ("flux", "flux2", "qwen_image", "krea2", "z_image")
                                    if name in KNOWN])
def test_reference_latents(pack, family):
    """Editing models are shown a picture, behind the one they make or before it: its tokens stay as they are."""
    model = load_transformer(family, **{"default_ref_method": "index"} if family == "krea2" else {})
    entry = {"reference_latents": [latent(family, REFERENCE, 5)["samples"]]}
    positive = [[text, more | entry] for text, more in prompt(family, TOKENS)]
    # Its prompt, padded, and the picture's 35 tokens.
    before = 2 * PADDED["z_image"] + 64 if family == "z_image" else TOKENS
    changed = check_formula(pack, model, family, positive, picture_of(family, CONTENT, before))
    assert relative_error(changed, inverted(pack, model, family, CONTENT, 1)[0]["samples"]) > 1e-3


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


@pytest.fixture
def fewer_heads(monkeypatch):
    """Lumina 2 as a fork of the host has it: keys and values go to attention with the heads that they have, two for
    four of queries.
    """
    widths = set()

    def grouped(q, k, v, heads, *args, **kwargs):
        widths.add(k.shape[1])
        return comfy.ldm.modules.attention.optimized_attention_masked(
            q, k[:, ::2], v[:, ::2], heads, *args, enable_gqa=True, **kwargs)

    def apply():
        monkeypatch.setattr(comfy.ldm.lumina.model, "optimized_attention_masked", grouped)
        return widths

    return apply


@pytest.mark.skipif("enable_gqa" not in inspect.getsource(comfy.ldm.modules.attention),
                    reason="this ComfyUI takes as many heads only")
@pytest.mark.parametrize("options", [{}, dict(auto_temperature=True), dict(weight=0.6),
                                     dict(weight=0.6, auto_temperature=True)])
@pytest.mark.parametrize("device", ["auto", "recompute"])
def test_keys_of_fewer_heads_than_queries(pack, fewer_heads, options, device):
    """The same result, also where styles are seen aside, and brought behind a prompt of another length."""
    model, positive = load_transformer("lumina2"), prompt("lumina2", TOKENS)
    [placed] = pack.StyleIDPositions(model=model)

    def run():
        noise, content, sigmas = inverted(pack, model, "lumina2", CONTENT, 1, feature_device=device)
        _, style, _ = inverted(pack, model, "lumina2", STYLE, 2, positive=prompt("lumina2", 3), feature_device=device)
        [m] = pack.InjectStyleKV(model=placed, content_features=content, style_features=style, **options)
        return sample_custom(m, positive, sigmas, noise)["samples"]

    expected = run()
    widths = fewer_heads()
    assert relative_error(run(), expected) < 1e-5 and widths


def on_top(model, sparse_below: float, calls_below: bool = False):
    """A clone of MODEL as ComfyUI's BlockSparseAttention makes one: at every step it puts its attention on top of
    whatever is there, and below a sigma that does not call it.
    """
    m, ours = model.clone(), set()

    def install(options):
        below = options.get("optimized_attention_override")
        if below in ours:
            return

        def sparse_attention(function, *args, **kwargs):
            sparse = kwargs["transformer_options"]["sigmas"][0] < sparse_below and not calls_below
            return function(*args, **kwargs) if below is None or sparse else below(function, *args, **kwargs)

        ours.add(sparse_attention)
        options["optimized_attention_override"] = sparse_attention

    install(m.model_options["transformer_options"])
    m.add_callback_with_key(CallbacksMP.ON_PREPARE_STATE, "sparse", lambda patcher, sigma,
                            options: install(options["transformer_options"]))
    return m


@pytest.mark.skipif("model_options" not in inspect.signature(ModelPatcher.prepare_state).parameters,
                    reason="this ComfyUI lets nobody change the options of a step")
@pytest.mark.parametrize("dense_steps", [0, 2])
def test_attention_that_calls_nothing_below_is_refused(pack, model, family, dense_steps, record_property):
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    for below in (1.01 * float(sigmas[dense_steps]), 0.0):
        [m] = pack.InjectStyleKV(model=on_top(model, below), content_features=content, style_features=style)
        if below:
            told = r"was injected into 0 of \d self-attentions, .*: .*on_top.*sparse_attention. Remove"
            with pytest.raises(ValueError, match=told):
                sample_custom(m, positive, sigmas, noise)
        else:
            [plain] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
            assert torch.equal(*(sample_custom(each, positive, sigmas, noise)["samples"] for each in (m, plain)))
    with pytest.raises(ValueError,
                       match=r"did not reach all of the chosen blocks: .*sparse_attention stands in the place"):
        inverted(pack, on_top(model, 1000.0), family, CONTENT, 1)
    record_property("beside", ("ComfyUI, newer", "BlockSparseAttention, by its contract",
                               "refused where it is sparse: calls no attention below its own"))


def test_blocks_that_a_cache_leaves_out_are_told(pack, caplog, record_property):
    """Nothing stands on top, and what the cache kept was injected into: no error, as with those of model calls."""
    model, positive, calls = load_transformer("flux"), prompt("flux", TOKENS), []
    noise, content, sigmas = inverted(pack, model, "flux", CONTENT, 1)

    def cached(args, extra):
        calls.append(args["img"])
        return {"img": args["img"], "txt": args["txt"]} if len(calls) > 2 else extra["original_block"](args)

    m = model.clone()
    m.set_model_patch_replace(cached, "dit", "double_block", 1)
    [m] = pack.InjectStyleKV(model=m, content_features=content, style_features=content)
    assert sample_custom(m, positive, sigmas, noise)["samples"].isfinite().all()
    assert "At 2 of these steps another node left out some of them, as caches of blocks do." in caplog.messages
    record_property("beside", ("any", "caches of a transformer's blocks",
                               "compose, and the log tells at how many steps"))


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
    m.set_model_patch_replace(lambda args, extra: extra["original_block"](args | {"attn_mask": regional}), "dit",
                              "double_block", 1)
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


@pytest.mark.full
def test_a_compiled_model(pack):
    model, positive = load_transformer("z_image"), prompt("z_image", TOKENS)
    compiled = TorchCompileModel().execute(model, "cudagraphs").result[0]
    compiled.model_options["torch_compile_kwargs"]["backend"] = "eager"
    inputs = dict(content=latent("z_image", CONTENT, 1), style=latent("z_image", STYLE, 2), positive=positive, steps=2)
    assert relative_error(stylize(pack, model=compiled, **inputs)["samples"],
                          stylize(pack, model=model, **inputs)["samples"]) < 1e-4
