"""What the tests of transformers have in common: small seeded ones of every family that ComfyUI knows, inverted."""

import inspect

import comfy.ldm.cosmos.predict2
import comfy.supported_models
import torch
from cases import relative_error

from styleid_core.storage import map_tensors
from tools.demo.transfer import sample_custom
from tools.miniature.transformers import SMALL, latent, prompt
from tools.reference import Stylized, formula_in_sequence

TELLS_BLOCKS = "block_index" in inspect.getsource(comfy.ldm.cosmos.predict2)  # older ones do not
KNOWN = [name for name, small in SMALL.items() if hasattr(comfy.supported_models, small.supported)
         and (TELLS_BLOCKS or small.config.get("image_model") not in ("cosmos_predict2", "anima"))]
STEPS = 4
CONTENT, STYLE, ODD = (16, 12), (12, 18), (15, 13)  # sizes of latents
TOKENS = 7  # of the prompt
# Of its calls of attention.
ORDER = {"sd35": [("double", 0, 0), ("double", 0, 1), ("double", 1, 0), ("double", 1, 1), ("double", 2, 0)]}
PADDED = {"z_image": 32, "flux2": 512}  # families that fill prompts up to so many tokens
SETTINGS = dict(gamma=0.6, tau=1.3)


def inverted(pack, model, family: str, size: tuple[int, int], seed: int, batch: int = 1, steps: int = STEPS,
             positive: list | None = None, **capture) -> tuple:
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
        *arguments, options = arguments
        output = executor(*arguments, family.for_call(model, options, kwargs), **kwargs)
        steps.insert(0, [map_tensors(torch.clone, seen[block]) for block in features.blocks])
        at.insert(0, float(options["sigmas"][0]))
        return output

    m.add_wrapper_with_key(family.WRAPPED, "test", wrapper)
    size = noise["samples"].shape[-2:]
    family.record(model, m.model_options["transformer_options"], features.blocks, seen, (len(noise["samples"]), *size))
    plain = sample_custom(m, positive, sigmas, noise)["samples"]
    return features._replace(sigmas=at, source=features.source._replace(steps=steps)), plain


def check_formula(pack, model, family: str, positive: list, picture: slice) -> torch.Tensor:
    """Injection beside the formula on a model and a prompt, kept and recomputed; gives the noise of the content."""
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1, positive=positive)
    _, style, _ = inverted(pack, model, family, CONTENT, 2, positive=positive)
    formula = formula_in_sequence(model, picture, Stylized(content, style, **SETTINGS), order=ORDER.get(family))
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    reference, injected, plain = (sample_custom(patched, positive, sigmas, noise)["samples"]
                                  for patched in (formula, m, model))
    assert relative_error(injected, reference) < 1e-4
    assert relative_error(plain, reference) > 1e-3
    recomputed = inverted(pack, model, family, CONTENT, 2, positive=positive, feature_device="recompute")[1]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=recomputed, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    assert relative_error(sample_custom(m, positive, sigmas, noise)["samples"], injected) < 1e-5
    return noise["samples"]
