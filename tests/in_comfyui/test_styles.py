"""Several styles, regions and a part of the style picture, against the formula."""

import comfy.ldm.modules.attention as comfy_attention
import comfy.supported_models
import pytest
import torch
from cases import relative_error
from companions import COMPANY

from tools.demo.transfer import sample_custom
from tools.miniature.seeded import SDXL
from tools.miniature.unet import CONTEXT_DIM, load_unet
from tools.miniature.unet import WIDE_HEADS as SD1
from tools.reference import Stylized, formula_attention

LAYOUTS = {"sd1": (comfy.supported_models.SD15, SD1), "sdxl": (comfy.supported_models.SDXL, SDXL),
           "sd1_inpaint": (comfy.supported_models.SD15, SD1 | dict(in_channels=9))}
SIZE, OTHER = (16, 24), (24, 16)
LEFT = torch.zeros(128, 192)
LEFT[:, :96] = 1
SOFT = torch.linspace(0, 1, 192).expand(128, 192)
TOP = torch.zeros(192, 128)
TOP[:70] = 1
RANDOM = torch.rand(50, 77, generator=torch.Generator().manual_seed(1))
TWO = (dict(gamma=0.6, tau=1.3), dict(gamma=0.3, tau=1.0))

SITUATIONS = {  # of the two styles, in the terms of `Stylized`
    "weight": (dict(weight=0.4),),
    "mask": (dict(mask=LEFT),),
    "soft mask": (dict(mask=SOFT, weight=0.8),),
    "mask of another size": (dict(mask=RANDOM),),
    "style mask": (dict(style_mask=TOP),),
    "mix": (dict(weight=0.3), dict(weight=0.5)),
    "whole mix": (dict(weight=0.3), dict(weight=0.7)),
    "weights above 1": (dict(weight=0.9), dict(weight=0.6, mask=SOFT)),
    "halves": (dict(mask=LEFT), dict(mask=1 - LEFT)),
    "soft halves": (dict(mask=SOFT, style_mask=TOP), dict(mask=1 - SOFT)),
    "overlap": (dict(mask=LEFT, weight=0.7), dict(weight=0.4)),
}


@pytest.fixture(scope="module", params=["sd1", pytest.param("sdxl", marks=pytest.mark.slow),
                                        pytest.param("sd1_inpaint", marks=pytest.mark.slow)])
def layout(request):
    supported, unet = LAYOUTS[request.param]
    return load_unet(unet_config=unet, family=supported)


def latents(*sizes: tuple, batch: int = 1) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    return [{"samples": torch.randn(batch, 4, *size, generator=generator)} for size in sizes]


def prompt() -> list:
    generator = torch.Generator().manual_seed(4)
    return [[torch.randn(1, 7, CONTEXT_DIM, generator=generator),
             {"pooled_output": torch.randn(1, 1280, generator=generator)}]]


def invert(pack, model, *pictures: dict, **capture) -> list[tuple]:
    """What DDIM Invert gives for each, in 3 steps."""
    [recording] = pack.CaptureSelfAttention(model=model, **capture)
    return [pack.DDIMInvert(model=recording, latent=each, positive=prompt(), steps=3, schedule="ddim")
            for each in pictures]


def stylized(pack, model, styles: list[Stylized]):
    """MODEL with the styles by chained nodes."""
    for each in styles:
        masks = {name: getattr(each, name) for name in ("mask", "style_mask") if getattr(each, name) is not None}
        [model] = pack.InjectStyleKV(model=model, content_features=each.content, style_features=each.style,
                                     gamma=each.gamma, temperature=each.tau, weight=each.weight, **masks)
    return model


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_formula(pack, layout, situation):
    (noise, content, sigmas), *styles = invert(pack, layout, *latents(SIZE, OTHER, SIZE))
    wanted = [Stylized(content, style, **settings | given)
              for (_, style, _), settings, given in zip(styles, TWO, SITUATIONS[situation])]
    reference, nodes, plain = (sample_custom(m, prompt(), sigmas, noise)["samples"] for m in (
        formula_attention(layout, *wanted), stylized(pack, layout, wanted), layout))
    assert relative_error(nodes, reference) < 1e-5
    assert relative_error(plain, reference) > 1e-3


@pytest.fixture(scope="module")
def inverted(pack, model):
    """[(noise, features, sigmas)] of a content and two styles of other sizes."""
    with torch.inference_mode():
        return invert(pack, model, *latents(SIZE, OTHER, SIZE))


@pytest.fixture
def sample(pack, model, inverted):
    """sample(settings of the first style, of the second, ...): the latent."""
    (noise, content, sigmas), *styles = inverted

    def run(*settings, sampled=model, **sampling):
        wanted = [Stylized(content, style, **given) for (_, style, _), given in zip(styles, settings)]
        return sample_custom(stylized(pack, sampled, wanted), prompt(), sigmas, noise, **sampling)["samples"]

    return run


def test_weight_0_is_the_untouched_model(sample, model, inverted):
    (noise, _, sigmas), *_ = inverted
    plain = sample_custom(model, prompt(), sigmas, noise)["samples"]
    assert torch.equal(sample(TWO[0] | dict(weight=0.0)), plain)
    assert torch.equal(sample(TWO[0] | dict(mask=torch.zeros_like(LEFT))), plain)
    assert torch.equal(sample(*(each | dict(weight=0.0) for each in TWO)), plain)


@pytest.mark.parametrize("backend", ["attention_basic", "attention_split", "attention_sub_quad", "attention_pytorch"])
def test_every_attention_of_comfyui_has_the_priors(sample, monkeypatch, backend):
    """Without a mask, over no more than the keys of both."""
    function, seen = getattr(comfy_attention, backend), []

    def watched(q, k, v, heads, mask=None, **kwargs):
        seen.append((q.shape[1], k.shape[1], mask))
        return function(q, k, v, heads, mask, **kwargs)

    settings = TWO[0] | dict(weight=0.8)
    expected = sample(settings)
    monkeypatch.setattr(comfy_attention, "optimized_attention", watched)
    assert relative_error(sample(settings), expected) < 1e-5
    assert max(keys / queries for queries, keys, _ in seen) == 2 and not any(mask is not None for *_, mask in seen)


def test_a_whole_mask_is_no_mask(sample):
    assert torch.equal(sample(TWO[0] | dict(mask=torch.ones(7, 9), style_mask=torch.ones(5, 5))), sample(TWO[0]))


def test_two_halves_of_one_style_are_that_style(pack, model, inverted, sample):
    (noise, content, sigmas), (_, style, _), _ = inverted
    one = sample(TWO[0])
    for shares in ((dict(weight=0.5), dict(weight=0.5)), (dict(mask=LEFT), dict(mask=1 - LEFT)),
                   (dict(mask=SOFT), dict(mask=1 - SOFT))):
        twice = stylized(pack, model, [Stylized(content, style, **TWO[0] | share) for share in shares])
        assert relative_error(sample_custom(twice, prompt(), sigmas, noise)["samples"], one) < 1e-5


def test_a_region_does_not_see_the_style_of_another(pack, model, inverted):
    """To the bit, in the output of the first injected block."""
    (noise, content, sigmas), (_, style, _), (_, other, _) = inverted
    attn1 = model.model.diffusion_model.output_blocks[6][1].transformer_blocks[0].attn1
    seen = []
    handle = attn1.to_out.register_forward_hook(lambda module, args, output: seen.append(output.clone()))
    for second in (style, other):
        m = stylized(pack, model, [Stylized(content, style, **TWO[0], mask=LEFT),
                                   Stylized(content, second, **TWO[0], mask=1 - LEFT)])
        sample_custom(m, prompt(), sigmas[:2], noise)
    handle.remove()
    left, right = zip(*((out.view(-1, 8, 12, out.shape[-1])[:, :, :6], out.view(-1, 8, 12, out.shape[-1])[:, :, 6:])
                        for out in seen))
    assert torch.equal(*left) and not torch.equal(*right)


def test_each_half_attends_once(pack, model, inverted):
    """Two styles in two halves give attention as many queries as one style does."""
    (noise, content, sigmas), (_, style, _), _ = inverted
    queries = []

    def override(attention, q, k, *args, **kwargs):
        queries.append(q.shape[1] * k.shape[1])
        return attention(q, k, *args, **kwargs)

    counted = model.clone()
    counted.model_options["transformer_options"]["optimized_attention_override"] = override
    totals = []
    for styles in ([dict()], [dict(mask=LEFT), dict(mask=1 - LEFT)], [dict(weight=0.5), dict(weight=0.5)]):
        sample_custom(stylized(pack, counted, [Stylized(content, style, **TWO[0] | each) for each in styles]),
                      prompt(), sigmas[:2], noise)
        totals.append(sum(queries))
        queries.clear()
    assert totals[1] == totals[0] < totals[2]


FEATURES = {
    "guidance": dict(cfg=3.0),
    "heun": dict(sampler="heun"),
}


@pytest.mark.parametrize("feature", FEATURES)
def test_regions_with_sampling_features(pack, model, inverted, sample, feature):
    (noise, content, sigmas), *styles = inverted
    wanted = [Stylized(content, style, **settings, mask=mask)
              for (_, style, _), settings, mask in zip(styles, TWO, (LEFT, 1 - LEFT))]
    reference = sample_custom(formula_attention(model, *wanted), prompt(), sigmas, noise,
                              **FEATURES[feature])["samples"]
    assert relative_error(sample(TWO[0] | dict(mask=LEFT), TWO[1] | dict(mask=1 - LEFT), **FEATURES[feature]),
                          reference) < 1e-4


@pytest.mark.parametrize("name", COMPANY)
def test_regions_beside_other_nodes(pack, model, inverted, sample, name):
    (noise, content, sigmas), *styles = inverted
    beside = COMPANY[name](model)
    wanted = [Stylized(content, style, **settings, mask=mask)
              for (_, style, _), settings, mask in zip(styles, TWO, (LEFT, 1 - LEFT))]
    reference = sample_custom(formula_attention(beside, *wanted), prompt(), sigmas, noise)["samples"]
    assert relative_error(sample(TWO[0] | dict(mask=LEFT), TWO[1] | dict(mask=1 - LEFT), sampled=beside),
                          reference) < 1e-4


@pytest.mark.parametrize("capture", [dict(feature_dtype="int8"), dict(feature_device="recompute")])
def test_regions_with_features_kept_otherwise(pack, model, inverted, sample, capture):
    (noise, content, sigmas), *styles = invert(pack, model, *latents(SIZE, OTHER, SIZE), **capture)
    m = stylized(pack, model, [Stylized(content, style, **settings, mask=mask)
                               for (_, style, _), settings, mask in zip(styles, TWO, (LEFT, 1 - LEFT))])
    result = sample_custom(m, prompt(), sigmas, noise)["samples"]
    expected = sample(TWO[0] | dict(mask=LEFT), TWO[1] | dict(mask=1 - LEFT))
    assert relative_error(result, expected) < (1e-4 if "feature_device" in capture else 2e-2)


def test_masks_of_a_batch(pack, model, inverted):
    """Of two contents each has its own mask."""
    contents = torch.cat([latents(SIZE)[0]["samples"], latents(SIZE)[0]["samples"].flip(-1)])
    (noise, content, sigmas), (_, style, _) = invert(pack, model, {"samples": contents}, *latents(OTHER))
    masks = torch.stack([LEFT, SOFT])
    together = sample_custom(stylized(pack, model, [Stylized(content, style, **TWO[0], mask=masks)]), prompt(), sigmas,
                             noise)["samples"]
    for i in range(2):
        (noise, content, sigmas), = invert(pack, model, {"samples": contents[i:i + 1]})
        alone = stylized(pack, model, [Stylized(content, style, **TWO[0], mask=masks[i])])
        assert relative_error(together[i:i + 1], sample_custom(alone, prompt(), sigmas, noise)["samples"]) < 1e-4


def test_odd_sizes(pack, model):
    (noise, content, sigmas), (_, style, _), (_, other, _) = invert(pack, model, *latents((13, 19), (11, 17), (9, 9)))
    wanted = [Stylized(content, style, **TWO[0], mask=RANDOM), Stylized(content, other, **TWO[1], mask=1 - RANDOM)]
    reference, nodes = (sample_custom(m, prompt(), sigmas, noise)["samples"] for m in (
        formula_attention(model, *wanted), stylized(pack, model, wanted)))
    assert relative_error(nodes, reference) < 1e-5


def test_styles_with_other_blocks_sides_and_spans(pack, model, inverted):
    """Each call and block has the styles that are for it."""
    (noise, content, sigmas), (_, style, _), (_, other, _) = inverted
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, blocks="6-8",
                             inject_into="cond", weight=0.5)
    [both] = pack.InjectStyleKV(model=m, content_features=content, style_features=other, blocks="8-11", end_percent=0.5)
    [only] = pack.InjectStyleKV(model=model, content_features=content, style_features=other, blocks="8-11",
                                end_percent=0.5)
    results = [sample_custom(each, prompt(), sigmas, noise, cfg=3.0)["samples"] for each in (m, both, only)]
    assert all(torch.isfinite(result).all() for result in results)
    assert min(relative_error(results[1], other) for other in (results[0], results[2])) > 1e-3


@pytest.mark.parametrize(("settings", "message"), [
    (dict(mask=torch.zeros(2, 3, 4, 5)), "The mask has shape"), (dict(mask=torch.full((4, 4), torch.nan)),
                                                                 "The mask contains NaN"),
    (dict(style_mask=torch.zeros(8, 8)), "style_mask leaves nothing of the style"),
    (dict(style_mask=torch.rand(2, 8, 8)), "style_mask holds 2 masks"), (dict(weight=torch.nan), "weight is nan")])
def test_masks_that_are_refused(pack, model, inverted, settings, message):
    (_, content, _), (_, style, _), _ = inverted
    with pytest.raises(ValueError, match=message):
        pack.InjectStyleKV(model=model, content_features=content, style_features=style, **settings)


def test_masks_for_another_number_of_pictures_are_refused(sample):
    with pytest.raises(ValueError, match="The mask holds 3 masks and the latent holds 1 pictures"):
        sample(TWO[0] | dict(mask=torch.rand(3, 16, 16)))


def test_the_temperature_that_finds_itself(pack, model, inverted):
    """It is near the fixed one that levels the deviations: 2 for half of the keys that the content has at the first
    step.
    """
    (noise, content, sigmas), *_ = inverted
    halved = [[0.5 * n for n in step] for step in content.source.steps]
    half = content._replace(source=content.source._replace(steps=halved))
    sampled = []
    for settings in (dict(auto_temperature=True), dict(temperature=2.0), dict(temperature=1.8), dict(temperature=2.2)):
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=half, gamma=1.0, blocks="6",
                                 **settings)
        sampled.append(sample_custom(m, prompt(), sigmas[:2], noise)["samples"])
    found, *fixed = sampled
    assert min(range(3), key=lambda i: relative_error(found, fixed[i])) == 0


@pytest.mark.parametrize("settings", [dict(weight=0.5), dict(mask=LEFT, style_mask=TOP)])
def test_it_finds_itself_in_every_part(pack, model, inverted, settings):
    (noise, content, sigmas), (_, style, _), _ = inverted
    results = []
    for auto in (True, False):
        [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, temperature=1.0,
                                 auto_temperature=auto, **settings)
        results.append(sample_custom(m, prompt(), sigmas, noise)["samples"])
    assert torch.isfinite(results[0]).all() and relative_error(*results) > 1e-4


def test_the_whole_node_finds_it_too(pack, model):
    content, style = latents(SIZE, OTHER)
    [options] = pack.StyleIDOptions(auto_temperature=True)
    inputs = dict(model=model, content=content, style=style, positive=prompt(), steps=3, schedule="ddim", blocks="auto")
    [found], [paper] = (pack.StyleIDSampler(**inputs, options=each) for each in (options, None))
    assert relative_error(found["samples"], paper["samples"]) > 1e-4


def test_blocks_that_the_model_lacks_are_left_out(pack, model, inverted):
    """Features of another layout, of which this model has some blocks."""
    (noise, content, sigmas), (_, style, _), _ = inverted
    added = [each._replace(blocks=[*each.blocks, each.blocks[0]._replace(number=12)],
                           source=each.source._replace(steps=[[*step, step[0]] for step in each.source.steps]))
             for each in (content, style)]
    results = []
    for pair in ((content, style), added):
        m = stylized(pack, model, [Stylized(*pair, **TWO[0], mask=LEFT)])
        results.append(sample_custom(m, prompt(), sigmas, noise)["samples"])
    assert torch.equal(*results)


def test_features_on_another_grid_are_refused(pack, model, inverted):
    """As another node leaves them that shrinks the picture in both inversion and sampling."""
    (noise, content, sigmas), (_, style, _), _ = inverted
    fewer = [[n[:, ::4] for n in step] for step in content.source.steps]
    shrunk = content._replace(source=content.source._replace(steps=fewer))
    with pytest.raises(ValueError, match="captured on 24 tokens, and this model has 8 x 12 .* nodes that shrink the "
                                         "picture"):
        sample_custom(stylized(pack, model, [Stylized(shrunk, style, **TWO[0], mask=LEFT)]), prompt(), sigmas, noise)
