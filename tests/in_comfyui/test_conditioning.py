"""A conditioning that an inversion or an injected sampling cannot follow is named before the first model call."""

import pytest
import torch

from nodes import ConditioningSetAreaPercentage, ConditioningSetMask, ConditioningSetTimestepRange
from tools.demo.transfer import sample_custom
from tools.pack import stylize


@pytest.fixture
def conditionings(case):
    """By what is wrong with them: (conditioning, sentence)."""
    positive = case.positive
    [early] = ConditioningSetTimestepRange().set_range(positive, 0.0, 0.4)
    [late] = ConditioningSetTimestepRange().set_range(positive, 0.5, 1.0)
    [area] = ConditioningSetAreaPercentage().append(positive, 0.5, 1.0, 0.0, 0.0, 1.0)
    left = torch.zeros(1, 128, 192)
    left[..., :96] = 1
    [mask], [bounds] = (ConditioningSetMask().append(positive, left, area, 1.0) for area in ("default", "mask bounds"))
    return {"nothing": ([], "is empty. Connect a CLIP Text Encode"),
            "a gap": (early + late, "has no prompt at sigma .* leave a gap"),
            "an area": (area, "only a part of the picture"),
            "bounds of a mask": (bounds, "only a part of the picture"),
            "two prompts": (positive + late, "several are connected to"),
            "a mask": (mask, "has a mask, and an inversion needs")}


NOWHERE = ("nothing", "a gap", "an area", "bounds of a mask")
NOT_INVERTED = (*NOWHERE, "two prompts", "a mask")


@pytest.mark.parametrize("kind", NOT_INVERTED)
def test_inversion(pack, model, calls, case, conditionings, kind):
    conditioning, sentence = conditionings[kind]
    with pytest.raises(ValueError, match=f"positive.*{sentence}|{sentence}.*positive"):
        pack.DDIMInvert(model=model, latent=case.content, positive=conditioning, steps=10)
    assert not calls


@pytest.mark.parametrize(("name", "kind"), [("positive", kind) for kind in NOWHERE]
                         + [("negative", kind) for kind in NOWHERE]
                         + [("inversion_positive", kind) for kind in NOT_INVERTED])
def test_the_sampler(pack, model, calls, case, conditionings, name, kind):
    conditioning, sentence = conditionings[kind]
    inputs = dict(positive=case.positive, inversion_positive=case.positive, negative=case.positive,
                  cfg=3.0) | {name: conditioning}
    with pytest.raises(ValueError, match=f"{name}.*{sentence}|{sentence}.*{name}"):
        stylize(pack, model=model, content=case.content, style=case.style, steps=10, **inputs)
    assert not calls


@pytest.mark.parametrize("kind", ["an area", "bounds of a mask"])
def test_a_stock_sampler(pack, model, calls, case, inverted, conditionings, kind):
    (noise, content, sigmas), (_, style, _) = inverted
    conditioning, sentence = conditionings[kind]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    calls.clear()
    with pytest.raises(ValueError, match=f"negative.*{sentence}"):
        sample_custom(m, case.positive, sigmas, noise, cfg=2.0, negative=conditioning)
    assert not calls


def test_ranges_that_meet_are_one_conditioning(pack, model, case, inverted):
    """In an inversion too: at each step one prompt."""
    parts = [ConditioningSetTimestepRange().set_range(case.positive, *ends)[0] for ends in ((0.0, 0.5), (0.5, 1.0))]
    noise, _, _ = pack.DDIMInvert(model=model, latent=case.content, positive=sum(parts, []), steps=case.steps,
                                  schedule="ddim")
    (plain, _, _), _ = inverted
    assert torch.equal(noise["samples"], plain["samples"])


def test_regions_by_masks_are_sampled(pack, model, case, inverted, conditionings):
    (noise, content, sigmas), (_, style, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    left, _ = conditionings["a mask"]
    whole, regional = (sample_custom(m, positive, sigmas[-4:], noise)["samples"]
                       for positive in (case.positive, left + case.positive))
    torch.testing.assert_close(regional, whole)
