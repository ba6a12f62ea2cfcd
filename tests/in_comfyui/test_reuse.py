"""What StyleID Sampler inverts again, and what it remembers."""

import comfy.model_management
import pytest
import torch
from cases import free_memory

STEPS = 3


def another(latent: dict) -> dict:
    return {"samples": latent["samples"].roll(1, -1)}


@pytest.fixture
def inputs(model, case):
    """Of this test alone; content and style have other sizes, so that each model call is for one of them."""
    return dict(model=model, content=another(case.content), style={"samples": case.style["samples"][..., ::2].clone()},
                positive=case.positive, steps=STEPS)


@pytest.fixture
def known(pack_module):
    return pack_module("nodes.engine.reuse")._known


@pytest.fixture
def calls_of(pack, calls):
    """calls_of(inputs): how many model calls StyleID Sampler makes."""
    def count(inputs):
        calls.clear()
        pack.StyleIDSampler(**inputs)
        return len(calls)

    return count


CHANGES = {
    "gamma": (lambda case: dict(gamma=0.3), 0),
    "temperature": (lambda case: dict(temperature=1.0), 0),
    "color_strength": (lambda case: dict(color_strength=0.5), 0),
    "some of the blocks": (lambda case: dict(blocks="7, 9-11"), 0),
    "colors only": (lambda case: dict(blocks=""), 0),
    "another content": (lambda case: dict(content=another(case.style)), 1),
    "another style": (lambda case: dict(style=another(case.style)), 1),
    "more blocks": (lambda case: dict(blocks="5-11"), 2),
    "schedule": (lambda case: dict(schedule="ddim"), 2),
    "an equal prompt that was encoded anew": (lambda case: dict(positive=[[case.positive[0][0].clone(), {}]]), 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_change_inverts_again(inputs, case, calls_of, change):
    make, inversions = CHANGES[change]
    assert calls_of(inputs) == 3 * STEPS
    assert calls_of(inputs | make(case)) == (1 + inversions) * STEPS


def test_content_and_style_can_change_places(inputs, calls_of):
    calls_of(inputs)
    assert calls_of(inputs | dict(content=inputs["style"], style=inputs["content"])) == STEPS


@pytest.mark.parametrize("options", [dict(start_percent=0.2, end_percent=0.9), dict(cfg=3.0, cfg_max_sigma=1000.0)])
def test_options_of_the_sampling_invert_nothing(pack, inputs, calls_of, options):
    calls_of(inputs)
    [options] = pack.StyleIDOptions(negative=inputs["positive"], **options)
    assert calls_of(inputs | dict(options=options)) == STEPS


@pytest.mark.parametrize("options", [dict(feature_dtype="int8"), dict(feature_device="recompute"), dict(denoise=0.5)])
def test_options_of_the_inversion_invert_again(pack, inputs, calls_of, options):
    calls_of(inputs)
    [options] = pack.StyleIDOptions(**options)
    first = calls_of(inputs | dict(options=options))
    assert first > calls_of(inputs | dict(options=options))


def test_another_model_inverts_again(inputs, calls_of):
    calls_of(inputs)
    assert calls_of(inputs | dict(model=inputs["model"].clone())) == 3 * STEPS


@pytest.mark.parametrize("device", ["auto", "recompute"])
@pytest.mark.parametrize("same_size", [True, False])
def test_what_is_remembered_gives_the_same_to_the_bit(pack, inputs, known, device, same_size):
    if same_size:
        inputs["style"] = another(inputs["content"])
    [options] = pack.StyleIDOptions(feature_device=device)
    pack.StyleIDSampler(**inputs, options=options)
    inputs |= dict(gamma=0.3, blocks="7-11", options=options)
    again, = pack.StyleIDSampler(**inputs)
    known.clear()
    anew, = pack.StyleIDSampler(**inputs)
    assert torch.equal(again["samples"], anew["samples"])


def test_an_inversion_is_remembered_as_long_as_its_latent(inputs, calls_of, known):
    calls_of(inputs)
    assert len(known) == 2
    del inputs["content"]
    assert [entry.latent() is inputs["style"]["samples"] for entry in known] == [True]
    inputs.clear()
    assert not known


@pytest.mark.parametrize(("share", "remembered"), [(0, 2), (1, 4)])
def test_little_memory_remembers_the_last_transfer(monkeypatch, pack_module, inputs, case, calls_of, known, share,
                                                   remembered):
    monkeypatch.setattr(pack_module("nodes.engine.reuse"), "ROOM", share)
    contents = [inputs["content"], another(case.content), another(inputs["content"])]
    for content in contents:
        calls_of(inputs | dict(content=content))
    assert len(known) == remembered
    assert calls_of(inputs | dict(content=contents[-1])) == STEPS


def test_short_memory_makes_way(monkeypatch, inputs, case, calls_of, known):
    calls_of(inputs)
    free = comfy.model_management.get_free_memory
    monkeypatch.setattr(comfy.model_management, "get_free_memory",
                        lambda *args, **kwargs: (free_memory(0) if known else free)(*args, **kwargs))
    assert calls_of(inputs
                    | dict(content=another(case.style))) == 2 * STEPS, "what this very run needs is not inverted again"


@pytest.mark.parametrize(("interrupted_at", "left"), [(STEPS, 3), (STEPS + 1, 2), (2 * STEPS + 1, 1)])
def test_a_cancelled_run_keeps_what_it_has_inverted(inputs, calls_of, calls, model, interrupted_at, left):
    def interrupt(*_):
        if len(calls) == interrupted_at:
            raise comfy.model_management.InterruptProcessingException

    handle = model.model.diffusion_model.time_embed.register_forward_hook(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        calls_of(inputs)
    handle.remove()
    assert calls_of(inputs) == left * STEPS
