"""Packs of others, loaded beside this one from the folder that STYLEID_PACKS names: python dev.py test --packs DIR.

Without that folder, or where a pack is not in it or does not load, its cases are skipped with a word.
"""

import asyncio
import importlib
import os
import re
from pathlib import Path

import comfy.samplers
import pytest
import torch
from cases import relative_error
from comfy.samplers import sampler_object

import nodes
from tools.demo.transfer import sample_custom
from tools.miniature.unet import CONTEXT_DIM, conditioning, seeded_tensor
from tools.pack import NODES
from tools.reference import paper_attention

PACKS = Path(os.environ["STYLEID_PACKS"]) if "STYLEID_PACKS" in os.environ else None
SETTINGS = dict(gamma=0.6, temperature=1.3)
COMPOSES, REFUSED = "composes", "refused"


@pytest.fixture(scope="module")
def loaded(pack):
    """loaded(name): makes sure that ComfyUI has loaded that pack, or skips."""
    if PACKS:
        prompt_server = importlib.import_module("server").PromptServer
        if not hasattr(prompt_server, "instance"):
            prompt_server(asyncio.new_event_loop())  # many packs register routes
    before = {name: nodes.NODE_CLASS_MAPPINGS[name] for name in NODES}
    known = {}

    def load(name):
        if PACKS is None:
            pytest.skip("no folder of packs (--packs DIR)")
        if not (PACKS / name).is_dir():
            pytest.skip(f"{name} is not in {PACKS}")
        if name not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("PYTEST_CURRENT_TEST")  # comfyui-prompt-control has no nodes in a test
                known[name] = asyncio.run(nodes.load_custom_node(str(PACKS / name)))
        if not known[name]:
            pytest.skip(f"{name} does not load here")
        assert {name: nodes.NODE_CLASS_MAPPINGS[name] for name in NODES} == before, "it took a node's place"

    return load


def versioned(name: str) -> str:
    """A pack with the version that its pyproject.toml tells."""
    project = PACKS / name / "pyproject.toml"
    found = re.search(r'^version = "(.+)"', project.read_text(encoding="utf-8"),
                      re.MULTILINE) if project.exists() else None
    return f"{name} {found[1]}" if found else name


def default(kind, options: dict):
    if "default" in options:
        return options["default"]
    choices = kind if isinstance(kind, (list, tuple)) else options.get("options", [None])
    return choices[0] if choices else None


def call(name: str, **given):
    """The first output of a node, with the defaults of its inputs."""
    cls = nodes.NODE_CLASS_MAPPINGS[name]
    inputs = {}
    for id, (kind, *options) in cls.INPUT_TYPES()["required"].items():
        inputs[id] = given.get(id) if id in given else default(kind, options[0] if options else {})
    result = getattr(cls(), cls.FUNCTION)(**inputs | given)
    return getattr(result, "result", result)[0]


@pytest.fixture
def inputs(case, inverted):
    (noise, content, sigmas), (_, style, _) = inverted
    return noise, dict(content_features=content, style_features=style, **SETTINGS), sigmas[-7:]


def ip_adapter(model) -> dict:
    """Seeded weights of an IP-Adapter of 4 image tokens, as its files have them: cross-attentions are numbered as that
    pack visits them.
    """
    unet = model.model.diffusion_model
    layers = [*(unet.input_blocks[number][1] for number in (1, 2, 4, 5, 7, 8)),
              *(block[1] for block in unet.output_blocks[3:]), unet.middle_block[1]]
    tokens = 4 * CONTEXT_DIM
    shapes = {"proj.weight": (tokens, 64), "proj.bias": (tokens,), "norm.weight": (CONTEXT_DIM,),
              "norm.bias": (CONTEXT_DIM,)}
    keys = {f"{2 * number + 1}.to_{side}_ip.weight": (layer.transformer_blocks[0].attn2.to_k.out_features, CONTEXT_DIM)
            for number, layer in enumerate(layers) for side in "kv"}
    return {part: {name: seeded_tensor(name, shape, 3, 1.0) for name, shape in named.items()}
            for part, named in (("image_proj", shapes), ("ip_adapter", keys))}


def image_embedding(name: str) -> torch.Tensor:
    return seeded_tensor(name, (1, 64), 3, 8.0)


LEFT = torch.ones(1, 64, 96).tril()

MODELS = {
    ("sd-perturbed-attention", "PerturbedAttention"): (dict(unet_block="middle"), COMPOSES),
    ("sd-perturbed-attention", "SmoothedEnergyGuidanceAdvanced"): (dict(unet_block="middle"), COMPOSES),
    ("ComfyUI-TiledDiffusion", "TiledDiffusion"): (dict(tile_width=64, tile_height=64, tile_overlap=0),
                                                   "only a part of the picture"),
    ("comfyui_jankhidiffusion", "ApplyMSWMSAAttention"): (dict(end_time=1.0, output_blocks="9"),
                                                          "cuts self-attention into tiles"),
    ("sd-perturbed-attention", "NormalizedAttentionGuidance"): (dict(negative=conditioning("photograph")), COMPOSES),
    ("sd-perturbed-attention", "PLADIS"): ({}, COMPOSES),
    ("ComfyUI-ppm", "TCFGAdvanced"): ({}, COMPOSES),
    ("ComfyUI-ppm", "AttentionCouplePPM"): (dict(base_cond=conditioning("photograph"), base_mask=LEFT,
                                                 cond_1=conditioning("western painting"), mask_1=1 - LEFT), COMPOSES),
    ("ComfyUI_IPAdapter_plus", "IPAdapterEmbeds"): (dict(ipadapter=ip_adapter, pos_embed=image_embedding("positive"),
                                                         neg_embed=image_embedding("negative")), COMPOSES),
}


@pytest.mark.parametrize("case_of", MODELS, ids=" ".join)
def test_models_that_others_patch(pack, model, case, loaded, inputs, case_of, record_property):
    folder, name = case_of
    loaded(folder)
    settings, expected = MODELS[case_of]
    noise, features, sigmas = inputs
    other = call(name, model=model, **{id: value(model) if callable(value) else value
                                       for id, value in settings.items()})
    negative = [[case["context"].flip(1), {}]]
    [m] = pack.InjectStyleKV(model=other, **features)
    if expected != COMPOSES:
        with pytest.raises(ValueError, match=expected):
            sample_custom(m, case.positive, sigmas, noise, cfg=2.0, negative=negative)
        record_property("beside", (versioned(folder), name, f"refused: {expected}"))
        return
    reference = paper_attention(other, **features)
    results = [sample_custom(each, case.positive, sigmas, noise, cfg=2.0, negative=negative)["samples"]
               for each in (m, reference)]
    assert relative_error(*results) < 1e-4
    record_property("beside", (versioned(folder), name, COMPOSES))


SAMPLERS = {
    ("ComfyUI_restart_sampling", "RestartSampler"): ("euler", {}, REFUSED),
    ("ComfyUI-Detail-Daemon", "DetailDaemonSamplerNode"): ("euler", {}, COMPOSES),
    ("ComfyUI-Detail-Daemon", "DetailDaemonSamplerNode", "ancestral"): ("euler_ancestral", {}, REFUSED),
    ("ComfyUI-Detail-Daemon", "LyingSigmaSampler"): ("heun", {}, COMPOSES),
    ("ComfyUI-sonar", "SamplerSonarEuler"): (None, {}, COMPOSES),
    ("ComfyUI-sonar", "SamplerSonarEulerA"): (None, {}, REFUSED),
    ("ComfyUI-sonar", "SamplerSonarDPMPPSDE"): (None, {}, REFUSED),
    ("RES4LYF", "ClownSampler_Beta"): (None, {}, REFUSED),
    # Not the default's middle of two sigmas, whose nearest step is a matter of rounding.
    ("RES4LYF", "ClownSampler_Beta", "ODE"): (None, dict(eta=0.0, sampler_name="linear/ralston_2s"), COMPOSES),
}


@pytest.mark.parametrize("case_of", SAMPLERS, ids=" ".join)
def test_samplers_of_others(pack, model, case, loaded, inputs, case_of, record_property):
    folder, name, *_ = case_of
    loaded(folder)
    wrapped, settings, expected = SAMPLERS[case_of]
    noise, features, sigmas = inputs
    if name == "RestartSampler":
        sigmas = call("RestartScheduler", model=model, steps=6)
    sampler = call(name, **settings | ({"sampler": sampler_object(wrapped)} if wrapped else {}))
    [m] = pack.InjectStyleKV(model=model, **features)

    def sample(patched):
        return comfy.sample.sample_custom(patched, torch.zeros_like(noise["samples"]), 1.0, sampler, sigmas,
                                          case.positive, case.positive, noise["samples"], seed=0)

    if expected == REFUSED:
        with pytest.raises(ValueError, match="adds noise"):
            sample(m)
    else:
        assert relative_error(sample(m), sample(paper_attention(model, **features))) < 1e-4
    variant = ", ".join(f"{key} {value}" for key, value in settings.items()) or wrapped
    record_property("beside", (versioned(folder), f"{name} ({variant})" if variant else name, f"{expected}: adds noise"
                               if expected == REFUSED else COMPOSES))


@pytest.mark.parametrize("name", ["ComfyUI-Advanced-ControlNet", "ComfyUI-AnimateDiff-Evolved", "ComfyUI-KJNodes",
                                  "comfyui-prompt-control"])
def test_packs_whose_models_are_not_here_load_beside_ours(loaded, name, record_property):
    loaded(name)
    record_property("beside", (versioned(name), "what is not named here", "loads beside ours; not run"))


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_windows_of_animatediff(pack, model, case, loaded, cfg, record_property):
    """Two of four frames at a time; they do not see each other in an image model, so windows change nothing."""
    loaded("ComfyUI-AnimateDiff-Evolved")
    options = call("ADE_StandardStaticContextOptions", context_length=2, context_overlap=0)
    windowed = call("ADE_UseEvolvedSampling", model=model, context_options=options)
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
    batches = [{"samples": torch.cat([latent["samples"].roll(4 * i, -1) for i in range(4)])}
               for latent in (case.content, case.style)]
    (noise, content, sigmas), (_, style, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=3, schedule="ddim")
        for latent in batches)
    results = []
    for each in (model, windowed):
        [m] = pack.InjectStyleKV(model=each, content_features=content, style_features=style, **SETTINGS)
        results.append(sample_custom(m, case.positive, sigmas, noise, cfg=cfg,
                                     negative=[[case["context"].flip(1), {}]])["samples"])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    record_property("beside", (versioned("ComfyUI-AnimateDiff-Evolved"), "windows over frames", COMPOSES))


def test_the_guider_of_kjnodes(pack, model, case, loaded, inputs, record_property):
    """Guidance in a part of the sampling."""
    loaded("ComfyUI-KJNodes")
    noise, features, sigmas = inputs
    [m] = pack.InjectStyleKV(model=model, **features)
    results = []
    for each in (m, paper_attention(model, **features)):
        guider = call("ScheduledCFGGuidance", model=each, positive=case.positive,
                      negative=[[case["context"].flip(1), {}]], cfg=3.0, start_percent=0.0, end_percent=0.97)
        results.append(guider.sample(torch.zeros_like(noise["samples"]), noise["samples"], sampler_object("euler"),
                                     sigmas))
    assert relative_error(*results) < 1e-4
    record_property("beside", (versioned("ComfyUI-KJNodes"), "ScheduledCFGGuidance", COMPOSES))


def test_a_reference_of_advanced_controlnet(pack, model, case, loaded, record_property):
    """Its reference_attn in the inversion and the sampling: kept features have it, and recomputing says that it cannot.
    """
    loaded("ComfyUI-Advanced-ControlNet")
    control = call("ACN_ReferenceControlNet")
    applied = nodes.NODE_CLASS_MAPPINGS["ACN_AdvancedControlNetApply_v2"]
    vae = EncodesAs(case.style["samples"])
    reference = call("ACN_ReferencePreprocessor", image=torch.rand(1, 128, 192, 3), vae=vae, latent_size=case.content)
    result = getattr(applied(), applied.FUNCTION)(positive=case.positive, negative=case.positive, control_net=control,
                                                  image=reference, strength=1.0, start_percent=0.0, end_percent=1.0)
    positive = getattr(result, "result", result)[0]
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11", feature_device="recompute")
    with pytest.raises(ValueError, match="feature_device recompute cannot repeat"):
        pack.DDIMInvert(model=recording, latent=case.content, positive=positive, steps=2, schedule="ddim")
    record_property("beside", (versioned("ComfyUI-Advanced-ControlNet"), "Reference in an inversion",
                               "refused with recompute"))


class EncodesAs:
    """A VAE for which every picture is the same latent."""

    def __init__(self, samples: torch.Tensor):
        self.samples = samples

    def vae_encode_crop_pixels(self, pixels):
        return pixels

    def encode(self, pixels):
        return self.samples
