"""ComfyUI's guiders with more prompts than a positive and a negative, or with two models: each call is injected as
asked.
"""

import pytest
import torch
from cases import relative_error
from comfy.samplers import sampler_object
from comfy_extras.nodes_custom_sampler import DualCFGGuider, SamplerCustomAdvanced
from comfy_extras.nodes_perpneg import PerpNegGuider
from companions import first_output

from tools.pack import stylize
from tools.reference import paper_attention

custom_sampler = pytest.importorskip("comfy_extras.nodes_custom_sampler")
SETTINGS = dict(gamma=0.6, temperature=1.3)
STEPS = 3


class NoNoise:
    seed = 0

    def generate_noise(self, latent):
        return torch.zeros_like(latent["samples"])


@pytest.fixture
def prompts(case):
    """Three that differ: (positive, another, negative)."""
    return [[[context, {}]] for context in (case["context"], case["context"].flip(1) * 2, case["context"] * -1.5)]


@pytest.fixture
def sample(inverted):
    """sample(guider): the latent of SamplerCustomAdvanced without noise, from the inverted content."""
    (noise, _, sigmas), _ = inverted

    def run(guider):
        return SamplerCustomAdvanced.execute(NoNoise(), guider, sampler_object("euler"), sigmas[:STEPS + 1],
                                             noise).result[0]["samples"]

    return run


GUIDERS = {
    "DualCFG": lambda model, a, b, c: first_output(DualCFGGuider.execute(model, a, b, c, 3.0, 2.0, "regular")),
    "DualCFG, nested": lambda model, a, b, c: first_output(DualCFGGuider.execute(model, a, b, c, 3.0, 2.0, "nested")),
    "PerpNeg": lambda model, a, b, c: first_output(PerpNegGuider.execute(model, a, c, b, 3.0, 1.0)),
}
if hasattr(custom_sampler, "DualModelGuider"):
    GUIDERS["DualModel"] = lambda model, a, b, c: first_output(
        custom_sampler.DualModelGuider.execute(model, a, 3.0, model.clone(), c))
# How many of the three are not a negative.
COND_PROMPTS = {"DualCFG": 2, "DualCFG, nested": 2, "PerpNeg": 1, "DualModel": 1}


@pytest.mark.parametrize("inject_into", ["both", "cond", "uncond"])
@pytest.mark.parametrize("name", GUIDERS)
def test_each_prompt_is_injected_as_asked(pack, model, inverted, prompts, sample, name, inject_into, record_property):
    """Beside the paper's formulas for the calls with some prompts, told by what their cross-attention is given."""
    (_, content, _), (_, style, _) = inverted
    guider = GUIDERS[name]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style, inject_into=inject_into,
                             **SETTINGS)
    cond = prompts[:COND_PROMPTS[name]]
    injected = {"both": prompts, "cond": cond,
                "uncond": [p for p in prompts if not any(p is c for c in cond)]}[inject_into]
    reference = only_for(injected, paper_attention(model, content, style, **SETTINGS))
    expected = sample(guider(reference, *prompts))
    assert relative_error(sample(guider(m, *prompts)), expected) < 1e-4
    assert relative_error(sample(guider(model, *prompts)), expected) > 1e-2
    record_property("beside", ("ComfyUI", f"guider {name}", "composes"))


def only_for(prompts: list, patched):
    """A clone of `patched` that replaces self-attention only in the calls with one of `prompts`, which run one by one.
    """
    m = patched.clone()
    wanted = [conditioning[0][0] for conditioning in prompts]
    replacements = m.model_options["transformer_options"].pop("patches_replace")

    def one_by_one(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
        calls = len(transformer_options["cond_or_uncond"])
        outputs = []
        for part_x, part_t, part_context in zip(x.chunk(calls), timesteps.chunk(calls), context.chunk(calls)):
            inside = any(torch.equal(part_context, each.to(part_context)) for each in wanted)
            options = transformer_options | ({"patches_replace": replacements} if inside else {})
            outputs.append(executor(part_x, part_t, part_context, y, control, options, **kwargs))
        return torch.cat(outputs)

    m.add_wrapper("diffusion_model", one_by_one)
    return m


@pytest.mark.skipif(not hasattr(custom_sampler, "CFGOverride"), reason="this ComfyUI has no CFG Override")
def test_an_inversion_has_no_guidance_whatever_sets_it(pack, model, case, inverted, record_property):
    overridden = first_output(custom_sampler.CFGOverride.execute(model, 8.0, 0.0, 1.0))
    noise, _, _ = pack.DDIMInvert(model=overridden, latent=case.content, positive=case.positive, steps=case.steps,
                                  schedule="ddim")
    (plain, _, _), _ = inverted
    assert torch.equal(noise["samples"], plain["samples"])
    inputs = dict(content=case.content, style=case.style, positive=case.positive, steps=3, schedule="ddim")
    assert torch.equal(*(stylize(pack, model=each, **inputs)["samples"] for each in (overridden, model)))
    record_property("beside", ("ComfyUI", "CFGOverride", "composes; left out of an inversion"))
