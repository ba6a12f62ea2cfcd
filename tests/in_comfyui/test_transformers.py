"""StyleID in transformers that attend to picture and prompt in one sequence: small seeded ones of every family that ComfyUI knows."""

import inspect

import comfy.ldm.cosmos.predict2
import comfy.supported_models
import pytest
import torch
from cases import relative_error

from tools.demo.transfer import sample_custom
from tools.miniature.transformers import SMALL, latent, load_transformer, prompt
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
