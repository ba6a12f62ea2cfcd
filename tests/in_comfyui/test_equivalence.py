"""What must come out equal, on ComfyUI's own samplers and model classes."""

import pytest
import torch
from cases import invert_both, relative_error, to_latent
from comfy.model_management import InterruptProcessingException, interrupt_current_processing
from comfy.patcher_extension import WrappersMP
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import BasicGuider, DisableNoise, SamplerCustomAdvanced

from nodes import KSamplerAdvanced
from tools.demo.transfer import sample_custom
from tools.pack import stylize
from tools.reference import paper_attention


@pytest.fixture
def transfer(pack, model, case):
    """transfer(...): samples of StyleIDSampler on the case, with settings changed."""

    def run(**settings):
        inputs = dict(model=model, content=case.content, style=case.style, positive=case.positive,
                      steps=case.steps) | settings
        return stylize(pack, **inputs)["samples"]

    return run


@pytest.fixture
def five_nodes(pack, model, invert):
    """five_nodes(schedule, ...): (patched MODEL, initial LATENT, sigmas) for a sampler of ComfyUI."""

    def prepare(schedule, **settings):
        (noise, content_features, sigmas), (style_noise, style_features, _) = invert(schedule)
        [start] = pack.LatentAdaIN(content=noise, style=style_noise)
        [m] = pack.InjectStyleKV(**dict(model=model, content_features=content_features,
                                        style_features=style_features) | settings)
        return m, start, sigmas

    return prepare


@pytest.mark.parametrize(("schedule", "weight", "limit"), [("ddim", 1.0, 1e-4), ("ddim", 0.9, 1e-4),
                                                            ("official", 1.0, 5e-4)])
def test_one_node_is_five_nodes(transfer, five_nodes, case, schedule, weight, limit):
    m, start, sigmas = five_nodes(schedule, weight=weight)
    assert relative_error(sample_custom(m, case.positive, sigmas, start)["samples"],
                          transfer(schedule=schedule, weight=weight)) < limit


def test_sampler_custom_advanced_gives_the_same(transfer, five_nodes, case):
    m, start, sigmas = five_nodes("ddim")
    guider, noise = BasicGuider.execute(m, case.positive).result[0], DisableNoise.execute().result[0]
    result = SamplerCustomAdvanced.execute(noise, guider, sampler_object("euler"), sigmas, start).result[0]
    assert relative_error(result["samples"], transfer(schedule="ddim")) < 1e-4


@pytest.mark.parametrize(("schedule", "scheduler"), [("ddim", "ddim_uniform"), ("karras", "karras"),
                                                     ("normal", "normal")])
def test_ksampler_advanced_gives_the_same(transfer, five_nodes, case, schedule, scheduler):
    m, start, _ = five_nodes(schedule)
    [result] = KSamplerAdvanced().sample(m, "disable", 0, case.steps, 1.0, "euler", scheduler, case.positive,
                                         case.positive, start, 0, 10000, "disable")
    assert relative_error(result["samples"], transfer(schedule=schedule)) < 1e-4


def record_while_sampling(pack_module, model, positive, latent, sigmas):
    """(result, Features) of a plain sampling run, by the recorder that inversion uses."""
    recording, capture = (pack_module(f"nodes.engine.{name}") for name in ("recording", "capture"))
    m, recorder = recording.record(capture.request_capture(model, "3-11"), [latent["samples"]],
                                   latent["samples"].device, [0])
    result = sample_custom(m, positive, sigmas, latent)
    [features] = recorder.features(len(sigmas) - 1)
    return result, features


def test_own_features_with_gamma_0_and_tau_1_change_nothing(pack, pack_module, model, case, inverted):
    (noise, _, sigmas), _ = inverted
    plain = sample_custom(model, case.positive, sigmas, noise)["samples"]
    recorded, own = record_while_sampling(pack_module, model, case.positive, noise, sigmas)
    assert torch.equal(recorded["samples"], plain), "recording changed the result"
    for gamma in (0.0, 1.0):
        [m] = pack.InjectStyleKV(model=model, content_features=own, style_features=own, gamma=gamma, temperature=1.0)
        assert torch.equal(sample_custom(m, case.positive, sigmas, noise)["samples"], plain)


def test_the_model_is_left_untouched(pack, model, case, inverted, five_nodes, transfer):
    """Bit for bit, and in its options: after nodes were made from it, after runs, and after an interrupted run."""
    (noise, _, sigmas), _ = inverted
    before, options = sample_custom(model, case.positive, sigmas, noise)["samples"], repr(model.model_options)

    m, start, _ = five_nodes("ddim")
    own_options = repr(m.model_options)
    transfer()
    interrupted = m.clone()
    calls = []

    def interrupt_at_the_third_call(executor, *args, **kwargs):
        calls.append(None)
        if len(calls) == 3:
            interrupt_current_processing()
        return executor(*args, **kwargs)

    interrupted.add_wrapper(WrappersMP.DIFFUSION_MODEL, interrupt_at_the_third_call)
    with pytest.raises(InterruptProcessingException):
        sample_custom(interrupted, case.positive, sigmas, start)
    assert len(calls) < len(sigmas) - 1, "the run was not cut short"

    assert repr(model.model_options) == options and repr(m.model_options) == own_options
    assert not model.wrappers.get(WrappersMP.OUTER_SAMPLE)
    assert torch.equal(sample_custom(model, case.positive, sigmas, noise)["samples"], before)


def test_a_second_run_gives_the_same(transfer):
    assert torch.equal(transfer(), transfer())


def test_applying_the_node_again_adds_a_style(five_nodes, case):
    """The same style again is that style, and with another gamma it is neither of both."""
    once, start, sigmas = five_nodes("ddim")
    twice, _, _ = five_nodes("ddim", model=once)
    other, _, _ = five_nodes("ddim", model=five_nodes("ddim", gamma=0.2)[0])
    one, same, mixed = (sample_custom(patched, case.positive, sigmas, start)["samples"]
                        for patched in (once, twice, other))
    assert relative_error(same, one) < 1e-5 and relative_error(mixed, one) > 1e-3


def test_an_injected_model_is_inverted_like_a_plain_one(pack, five_nodes, case, inverted):
    m, _, _ = five_nodes("ddim")
    [recording] = pack.CaptureSelfAttention(model=m, blocks="6-11")
    noise, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive,
                                         steps=case.steps, schedule="ddim")
    (plain_noise, plain_features, _), _ = inverted
    assert torch.equal(noise["samples"], plain_noise["samples"])
    assert all(torch.equal(*pair) for pair in zip(sum(features.source.steps, []), sum(plain_features.source.steps, [])))


def test_cond_and_uncond_in_one_batch_or_split(five_nodes, case, monkeypatch):
    m, start, sigmas = five_nodes("ddim")
    m.disable_model_cfg1_optimization()
    batches = []

    def remember_batch(executor, x, *args, **kwargs):
        batches.append(len(x))
        return executor(x, *args, **kwargs)

    m.add_wrapper(WrappersMP.DIFFUSION_MODEL, remember_batch)
    together = sample_custom(m, case.positive, sigmas, start, cfg=3.0)["samples"]
    monkeypatch.setattr(type(m), "get_free_memory", lambda self, device: 0)
    split = sample_custom(m, case.positive, sigmas, start, cfg=3.0)["samples"]
    assert set(batches[:case.steps]) == {2} and set(batches[case.steps:]) == {1}
    assert relative_error(split, together) < 1e-5


@pytest.fixture
def by_formula(pack, model, case):
    """by_formula(content, style): samples of the graph of five nodes, where the paper's formulas stand for the
    injection.
    """
    def run(content, style):
        of_content, of_style = invert_both(pack, model, case, "ddim", content, style)
        (noise, content_features, sigmas), (style_noise, style_features, _) = of_content, of_style
        [start] = pack.LatentAdaIN(content=noise, style=style_noise)
        m = paper_attention(model, content_features, style_features, gamma=0.75, temperature=1.5)
        return sample_custom(m, case.positive, sigmas, start)["samples"]

    return run


@pytest.mark.parametrize("size", [(16, 24), (24, 16), (9, 31), (32, 32)])
def test_style_of_any_size(transfer, by_formula, case, size):
    style = to_latent(torch.nn.functional.interpolate(case["style.latent"], size, mode="bicubic"))
    assert relative_error(transfer(style=style, schedule="ddim"), by_formula(case.content, style)) < 1e-4


def test_content_of_odd_size(transfer, by_formula, case):
    content = to_latent(case["content.latent"][..., :13, :21])
    result = transfer(content=content, schedule="ddim")
    assert result.shape == (1, 4, 13, 21) and relative_error(result, by_formula(content, case.style)) < 1e-4


def test_batches_are_the_single_runs(transfer, case):
    contents = torch.cat([case["content.latent"], case["content.latent"].flip(-1)])
    styles = torch.cat([case["style.latent"], case["style.latent"].flip(-2)])
    steps = 5
    pairs = {"one style": (contents, styles[:1]),
             "a style for each": (contents, styles), "one content": (contents[:1], styles)}
    for name, (content, style) in pairs.items():
        batch = transfer(content=to_latent(content), style=to_latent(style), steps=steps)
        for i in range(2):
            single = transfer(content=to_latent(content[i % len(content)][None]),
                              style=to_latent(style[i % len(style)][None]), steps=steps)
            assert relative_error(batch[i:i + 1], single) < 1e-4, name


def test_a_mask_leaves_the_outside_untouched(transfer, case):
    mask = torch.zeros(1, 128, 192)
    mask[:, :64] = 1
    full, masked = (transfer(content=case.content | given, steps=3) for given in ({}, {"noise_mask": mask}))
    assert torch.equal(masked[:, :, 8:], case.content["samples"][:, :, 8:])
    assert torch.equal(masked[:, :, :8], full[:, :, :8])


def test_guidance_is_that_of_the_samplers(pack, model, case, transfer):
    """cfg 5 with a negative below sigma 5.42, and inversions with a prompt of their own: the five-node graph, two
    SamplerCustom.
    """
    prompt, negative, empty = ([[case["context"] * factor, {}]] for factor in (1.5, 0.5, 1.0))
    [recording] = pack.CaptureSelfAttention(model=model, blocks="6-11")
    (noise, content, sigmas), (style_noise, style, _) = (
        pack.DDIMInvert(model=recording, latent=latent, positive=empty, steps=5, schedule="karras")
        for latent in (case.content, case.style))
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    above = int((sigmas > 5.42).sum())
    assert 0 < above < 5
    coarse = sample_custom(m, prompt, sigmas[:above + 1], start)
    expected = sample_custom(m, prompt, sigmas[above:], coarse, cfg=5.0, negative=negative)["samples"]
    inputs = dict(positive=prompt, steps=5, schedule="karras")
    assert relative_error(transfer(negative=negative, cfg=5.0, inversion_positive=empty, **inputs), expected) < 1e-4
    assert relative_error(transfer(**inputs), expected) > 1e-2
    assert torch.equal(transfer(negative=negative, **inputs), transfer(**inputs)), "at cfg 1 a negative changes nothing"


def test_capture_alone_gives_the_same_noise(pack, model, case, inverted):
    (noise, features, _), _ = inverted
    plain, none, _ = pack.DDIMInvert(model=model, latent=case.content, positive=case.positive, steps=case.steps,
                                     schedule="ddim")
    assert torch.equal(plain["samples"], noise["samples"])
    assert none.blocks == [] and [number for _, number, _ in features.blocks] == [6, 7, 8, 9, 10, 11]


def test_features_hold_what_design_promises(inverted):
    """One LayerNorm output for each step and block, in lists and tuples only, which ComfyUI's memory cache can count.
    """
    (_, features, sigmas), _ = inverted
    assert isinstance(features, tuple) and isinstance(features.source.steps,
                                                      list) and isinstance(features.source.steps[0], list)
    assert len(features.source.steps) == len(features.sigmas) == len(sigmas) - 1
    assert sorted(features.sigmas, reverse=True) == pytest.approx(sigmas[:-1].tolist())
    assert all([tuple(n.shape) for n in step] == [(1, 96, 64)] * 3 + [(1, 384, 32)] * 3
               for step in features.source.steps)


def test_the_log_tells_blocks_and_steps(transfer, caplog):
    with caplog.at_level("INFO", logger="styleid"):
        transfer(blocks="6,9-11", steps=5, schedule="ddim")
    assert "Injected style into 4 self-attentions (output 6, 9-11) at 5 steps." in caplog.messages
