"""Where a transformer sees the style, held to rotations that are written another way, and to the model's own."""

import math

import pytest
import torch
from cases import relative_error, with_steps
from sequences import CONTENT, KNOWN, ORDER, PADDED, SETTINGS, STYLE, TOKENS, inverted, picture_of

from tools.demo.transfer import sample_custom
from tools.miniature.transformers import latent, load_transformer, prompt
from tools.miniature.unet import load_unet
from tools.reference import Stylized, formula_in_sequence

ROTATING = [name for name in KNOWN if name != "sd35"]
AXES = {"flux2": (8, 8, 8, 8), "z_image": (16, 24, 24), "lumina2": (4, 6, 6), "krea2": (4, 6, 6),
        "cosmos_predict2": (12, 10, 10), "anima": (12, 10, 10), "wan": (12, 10, 10)}  # channels; (8, 12, 12) in others
THETA = {"flux2": 2000, "z_image": 256, "krea2": 1000}  # 10,000 in others
FLAT = (16, 16)  # Z-Image would pad another number of tokens
BEHIND = ("z_image", "lumina2")  # the prompt
HALVES = ("cosmos_predict2", "anima")


@pytest.fixture(scope="module", params=ROTATING)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return load_transformer(family)


def rotated(family: str, x: torch.Tensor, place: tuple[int, int, int], high: float = 1.0,
            low: float = 1.0) -> torch.Tensor:
    """x (..., heads * channels) as complex numbers, turned to another place and scaled from high to low frequencies."""
    axes, theta = AXES.get(family, (8, 12, 12)), THETA.get(family, 10_000)
    factors = []
    for axis, channels in enumerate(axes):
        for i in range(channels // 2):
            angle = (*place, 0)[axis] * theta ** (-2 * i / channels)
            scale = high + (low - high) * i / (channels // 2 - 1) if axis in (1, 2) else 1.0
            factors.append(scale * complex(math.cos(angle), math.sin(angle)))
    heads = x.double().unflatten(-1, (-1, sum(axes)))
    a, b = heads.chunk(2, -1) if family in HALVES else (heads[..., ::2], heads[..., 1::2])
    turned = torch.complex(a, b) * torch.tensor(factors, dtype=torch.complex128)
    parts = [turned.real, turned.imag]
    return (torch.cat(parts, -1) if family in HALVES else torch.stack(parts, -1).flatten(-2)).flatten(-2)


@pytest.mark.parametrize(("place", "shift", "high", "low"), [
    ("diagonal", (0, CONTENT[0], CONTENT[1]), 0.5, 1.5), ("beside", (0, 0, CONTENT[1]), 1.0, 1.0),
    ("same", (0, 0, 0), 0.3, 1.2)])
def test_styles_are_moved_and_scaled(pack, model, family, place, shift, high, low):
    patch, positive = 1 if family == "flux2" else 2, prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    shift = tuple(side // patch for side in shift)
    formula = formula_in_sequence(model, picture_of(family, CONTENT), Stylized(
        content, style, **SETTINGS, moved=lambda k: rotated(family, k, shift, high, low)))
    [placed] = pack.StyleIDPositions(model=model, place=place, high_frequencies=high, low_frequencies=low)
    inputs = dict(content_features=content, style_features=style, gamma=SETTINGS["gamma"], temperature=SETTINGS["tau"])
    reference, injected, unmoved = (sample_custom(m, positive, sigmas, noise)["samples"] for m in (
        formula, *(pack.InjectStyleKV(model=each, **inputs)[0] for each in (placed, model))))
    assert relative_error(injected, reference) < 1e-4
    assert relative_error(unmoved, reference) > 1e-3, "the place makes no difference here"
    assert torch.equal(sample_custom(placed, positive, sigmas, noise)["samples"],
                       sample_custom(model, positive, sigmas, noise)["samples"])


def test_they_are_moved_as_the_model_would(pack, pack_module, model, family):
    """In a picture without detail all tokens are alike but for their places: one that is moved is another one of the
    same picture.
    """
    positions = pack_module("nodes.engine.families.positions")
    layout_of = pack_module("nodes.engine.families.layouts").layout_of
    [recording] = pack.CaptureSelfAttention(model=model, blocks="double 0"
                                            if "single_blocks" in dir(model.model.diffusion_model) else "0")
    flat = torch.ones_like(latent(family, FLAT, 0)["samples"])
    _, features, _ = pack.DDIMInvert(model=recording, latent={"samples": flat}, positive=prompt(family, TOKENS),
                                     steps=1)
    patch = 1 if family == "flux2" else 2
    height, width = (side // patch for side in FLAT)
    q, k, _ = (x.unflatten(1, (height, width)) for x in features.source.steps[0][0])
    network = model.model.diffusion_model
    embedding = layout_of(network).embedding(network)
    for x in (q, k):
        moved = positions.turned(x[:, :-2, :-3], embedding.at(0, 2, 3), embedding.halves)
        assert relative_error(moved, x[:, 2:, 3:]) < 1e-5
        assert relative_error(x[:, :-2, :-3], x[:, 2:, 3:]) > 1e-2


def test_the_same_place_and_frequencies_change_no_bit(pack, model, family):
    positive = prompt(family, TOKENS)
    noise, content, sigmas = inverted(pack, model, family, CONTENT, 1)
    _, style, _ = inverted(pack, model, family, STYLE, 2)
    [placed] = pack.StyleIDPositions(model=model, place="same", high_frequencies=1.0, low_frequencies=1.0)
    a, b = (sample_custom(pack.InjectStyleKV(model=m, content_features=content, style_features=style)[0], positive,
                          sigmas, noise)["samples"] for m in (placed, model))
    assert torch.equal(a, b)


@pytest.mark.parametrize(("load", "name"), [(lambda: load_transformer("sd35"), "OpenAISignatureMMDITWrapper"),
                                            (load_unet, "UNetModel")])
def test_models_without_such_positions_are_refused(pack, load, name):
    with pytest.raises(ValueError, match=f"rotary positions of a transformer .*, and a {name} has none. Remove or "
                                         "bypass"):
        pack.StyleIDPositions(model=load())


@pytest.mark.parametrize(("name", "tokens", "device"), [*((name, 40, "auto") for name in KNOWN), *(
    (name, tokens, "recompute") for name in BEHIND for tokens in (3, 40))])
def test_prompts_of_other_lengths(pack, name, tokens, device):
    """In Z-Image and Lumina 2 a picture stands behind its prompt; content and style are brought to where the result is.
    """
    model, positive = load_transformer(name), prompt(name, TOKENS)
    (noise, content, sigmas), (_, style, _) = (inverted(pack, model, name, size, seed,
                                                        positive=prompt(name, tokens, seed))
                                               for size, seed in ((CONTENT, 1), (STYLE, 2)))
    formula = formula_in_sequence(model, picture_of(name, CONTENT), Stylized(
        *(behind_the_prompt(name, features, TOKENS, tokens) for features in (content, style)), **SETTINGS),
                                  order=ORDER.get(name))
    if device == "recompute":
        style = inverted(pack, model, name, STYLE, 2, positive=prompt(name, tokens, 2), feature_device=device)[1]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, gamma=SETTINGS["gamma"],
                             temperature=SETTINGS["tau"])
    reference, injected = (sample_custom(patched, positive, sigmas, noise)["samples"] for patched in (formula, m))
    assert relative_error(injected, reference) < 1e-4


def behind_the_prompt(family: str, features, tokens: int, before: int):
    """Features of a picture that was behind a prompt of so many tokens before."""
    if family not in BEHIND:
        return features
    multiple = PADDED.get(family, 1)
    by = (math.ceil(tokens / multiple) - math.ceil(before / multiple)) * multiple

    def turned(tokens):
        return tokens._replace(**{name: rotated(family, getattr(tokens, name), (by, 0, 0)).float()
                                  for name in ("q", "k")})

    return with_steps(features, [[turned(tokens) for tokens in step] for step in features.source.steps])
