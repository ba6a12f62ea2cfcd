"""Every stage against the values that the authors' code gives, in float32, through the nodes that a user drags."""

import functools
import json

import comfy.supported_models
import pytest
import torch
from cases import Golden, from_latent, invert_both, relative_error, to_latent
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.model_base import ModelType
from comfy.samplers import KSAMPLER
from safetensors import safe_open

from tools.demo.transfer import sample_custom
from tools.host import ROOT
from tools.miniature.unet import load_unet

ONE_NODE, FIVE_NODES, STAGE, CURVES = 1e-4, 1e-3, 1e-4, 1e-4

VARIANTS = {50: ["default", "gamma_0_3", "gamma_0", "gamma_1", "tau_1", "no_adain", "no_injection", "layers_9_11"],
            20: ["default", "no_injection"]}

FULL = {50: ("default", "layers_9_11"), 20: ("default", "no_injection")}  # the others with dev.py test --all
QUICK = 20, "default"

pytestmark = pytest.mark.full

each_variant = pytest.mark.parametrize(("golden", "variant"), [
    pytest.param(steps, name, marks=pytest.mark.quick if (steps, name) == QUICK else
                 () if name in FULL[steps] else pytest.mark.slow)
    for steps, names in VARIANTS.items() for name in names], indirect=["golden"])


@pytest.fixture(scope="module")
def model():
    """The UNet of the golden values."""
    return load_unet(weight_seed=0)


@pytest.fixture(params=[50, 20], ids=["50_steps", "20_steps"])
def golden(request):
    return Golden(request.param)


@pytest.fixture
def assert_parity(record_property):
    """assert_parity(name, value, expected, limit): holds a value to a golden one and adds a line to the table at the
    end.
    """
    def check(name, value, expected, limit):
        error = relative_error(value, expected)
        record_property("parity", (name, error, limit))
        assert error <= limit, f"{name}: relative error {error:.2e} is above {limit:.0e}"

    return check


@pytest.fixture(scope="module")
def invert(pack, model):
    """invert(golden, blocks): [(noise, features, sigmas) of content, of style], by the nodes; each is run once."""
    @functools.cache
    def with_nodes(steps, blocks):
        with torch.inference_mode():
            return invert_both(pack, model, Golden(steps), "official", blocks=blocks)

    return lambda golden, blocks="6-11": with_nodes(golden.steps, blocks)


@pytest.fixture
def captured(invert, golden):
    return dict(zip(("content", "style"), invert(golden)))


def blocks_of(settings) -> str:
    return ",".join(map(str, settings["layers"]))


def test_the_list_of_variants_is_whole(golden):
    assert sorted(golden.variants) == sorted(VARIANTS[golden.steps])


@pytest.mark.parametrize("name", ["content", "style"])
def test_inversion_trajectory(pack_module, model, golden, assert_parity, name):
    inversion, settings, paths = (pack_module(name) for name in (
        "nodes.engine.inversion", "styleid_core.settings", "styleid_core.paths"))
    schedule = inversion.make_schedule(model, settings.InversionSettings(golden.steps, "official"))
    trajectory = []
    inversion.invert(model, golden.positive, [getattr(golden, name)["samples"]], schedule,
                     lambda step, x0, x, total: trajectory.append(x / paths.vp_scale(schedule.inversion[step + 1])))
    assert_parity(f"{golden.steps} steps, {name} inversion trajectory", torch.cat(trajectory),
                  golden[f"{name}.trajectory"], STAGE)


@pytest.mark.parametrize("name", ["content", "style"])
def test_inverted_noise(pack_module, golden, captured, assert_parity, name):
    noise, _, sigmas = captured[name]
    z = from_latent(noise) / pack_module("styleid_core.paths").vp_scale(sigmas[0])
    assert_parity(f"{golden.steps} steps, {name} noise of DDIMInvert", z, golden[f"{name}.trajectory"][-1:], STAGE)


@pytest.mark.parametrize("projection", ["content.q", "style.k", "style.v"])
def test_captured_features(model, golden, captured, assert_parity, projection):
    name, letter = projection.split(".")
    _, features, _ = captured[name]
    keys = [key for key in golden if key.startswith(f"{projection}.")]
    assert len(keys) == 9
    for key in keys:
        t, block = key.split(".")[2:]
        step = features.source.steps[golden.timesteps.index(int(t[1:]))]
        n = step[features.blocks.index(("output", int(block[7:]), 0))]
        attn1 = model.model.diffusion_model.output_blocks[int(block[7:])][1].transformer_blocks[0].attn1
        to = getattr(attn1, f"to_{letter}")
        heads = to(n.to(to.weight))[0].unflatten(-1, (8, -1)).movedim(1, 0)
        assert_parity(f"{golden.steps} steps, captured {key}", heads, golden[key], STAGE)


def test_initial_latent(pack, pack_module, golden, captured, assert_parity):
    [start] = pack.LatentAdaIN(content=captured["content"][0], style=captured["style"][0], color_strength=1.0)
    z = from_latent(start) / pack_module("styleid_core.paths").vp_scale(captured["content"][2][0])
    assert_parity(f"{golden.steps} steps, initial latent AdaIN", z, golden["adain"], STAGE)


@each_variant
def test_one_node(pack, model, golden, assert_parity, variant):
    settings = golden.variants[variant]
    [result] = pack.StyleIDSampler(
        model=model, content=golden.content, style=golden.style, positive=golden.positive, steps=golden.steps,
        gamma=settings["gamma"], temperature=settings["tau"], color_strength=float(settings["adain"]),
        blocks=blocks_of(settings) if settings["inject"] else "", schedule="official")
    assert_parity(f"{golden.steps} steps, StyleIDSampler, {variant}", from_latent(result), golden[f"output.{variant}"],
                  ONE_NODE)


@each_variant
def test_five_nodes(pack, model, golden, invert, assert_parity, variant):
    settings = golden.variants[variant]
    (noise, content_features, sigmas), (style_noise, style_features, _) = invert(golden, blocks_of(settings))
    [start] = pack.LatentAdaIN(content=noise, style=style_noise, color_strength=float(settings["adain"]))
    m = model
    if settings["inject"]:
        [m] = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features,
                                 gamma=settings["gamma"], temperature=settings["tau"])
    result = sample_custom(m, golden.positive, sigmas, start)
    assert_parity(f"{golden.steps} steps, five nodes, {variant}", from_latent(result), golden[f"output.{variant}"],
                  FIVE_NODES)


@pytest.mark.parametrize("shape", ["cosine", pytest.param("sqrt", marks=pytest.mark.slow),
                                   pytest.param("linear", marks=pytest.mark.slow)])
def test_gamma_curves(pack, pack_module, model, invert, assert_parity, shape):
    """By the code of Scheduled Style Injection. The curve's start belongs to t = 981, which is inverted and not
    sampled.
    """
    golden = Golden(50)
    with safe_open(ROOT / "tests" / "golden" / "gamma_schedules.safetensors", "pt") as file:
        expected, settings = file.get_tensor(f"output.{shape}"), json.loads(file.metadata()["variants"])[shape]
    (noise, content_features, sigmas), (style_noise, style_features, _) = invert(golden)
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [curve] = pack.StyleIDCurve(start=1.0, end=settings["end"] / settings["start"], shape=shape)
    [m] = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features,
                             gamma=settings["start"], gamma_curve=curve)
    z = from_latent(sample_custom(m, golden.positive, sigmas,
                                  start)) / pack_module("styleid_core.paths").vp_scale(sigmas[-1])
    assert_parity(f"50 steps, five nodes, gamma along {shape}", z, expected, CURVES)


RENOISE_TIMESTEPS = [0, *range(1, 902, 100)]  # of its own grid, which begins at the cleanest


@pytest.fixture(scope="module")
def renoise():
    with safe_open(ROOT / "tests" / "golden" / "renoise.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def refined_inversion(pack_module, model, context, z, timesteps: list[int], rounds: int) -> list[torch.Tensor]:
    """z (1, C, H, W) after each step up the timesteps."""
    inversion, schedules, paths = (pack_module(name) for name in (
        "nodes.engine.inversion", "styleid_core.schedules", "styleid_core.paths"))
    sampling = model.get_model_object("model_sampling")
    sigmas, trajectory = sampling.sigmas.cpu()[timesteps], []
    schedule = schedules.refined(schedules.ddim_schedule(sigmas.flip(0)), rounds, sampling.percent_to_sigma(0.75))
    inversion.invert(model, [[context, {}]], [to_latent(z)["samples"]], schedule,
                     lambda step, x0, x, total: trajectory.append(x / paths.vp_scale(sigmas[step + 1])))
    return trajectory


@pytest.mark.parametrize("rounds", [0, 1])
def test_refined_inversion(pack_module, model, renoise, assert_parity, rounds):
    """By the code of ReNoise."""
    trajectory = refined_inversion(pack_module, model, renoise["context"], renoise["latent"], RENOISE_TIMESTEPS, rounds)
    assert_parity(f"ReNoise, {rounds} rounds, trajectory", torch.cat(trajectory), renoise[f"n{rounds}.trajectory"],
                  STAGE)


@pytest.mark.parametrize("rounds", [5, 9])
def test_each_refined_step(pack_module, model, renoise, assert_parity, rounds):
    """From each state that ReNoise was in: so many rounds amplify the rounding of a whole inversion."""
    expected = renoise[f"n{rounds}.trajectory"]
    starts = torch.cat([renoise["latent"], expected[:-1]])
    steps = [refined_inversion(pack_module, model, renoise["context"], z[None], RENOISE_TIMESTEPS[i:i + 2], rounds)[0]
             for i, z in enumerate(starts)]
    assert_parity(f"ReNoise, {rounds} rounds, step by step", torch.cat(steps), expected, STAGE)


class PredictsV(UNetModel):
    """The same weights in another parameterisation: v = sqrt(1 + sigma^2) eps - sigma z."""

    def _forward(self, x, timesteps=None, *args, **kwargs):
        sigma = self.sigmas.to(x)[timesteps.long()][:, None, None, None]
        return (1 + sigma ** 2) ** 0.5 * super()._forward(x, timesteps, *args, **kwargs) - sigma * x


class SD15V(comfy.supported_models.SD15):
    def model_type(self, state_dict, prefix=""):
        return ModelType.V_PREDICTION


def test_v_prediction(pack, assert_parity):
    case, model = Golden(20), load_unet(weight_seed=0, family=SD15V)
    model.model.diffusion_model.__class__ = PredictsV
    model.model.diffusion_model.sigmas = model.model.model_sampling.sigmas
    [result] = pack.StyleIDSampler(model=model, content=case.content, style=case.style, positive=case.positive,
                                   steps=case.steps)
    assert_parity(f"{case.steps} steps, StyleIDSampler, as v-prediction", from_latent(result), case["output.default"],
                  ONE_NODE)


def test_sampling_trajectory(pack, pack_module, model, golden, captured, assert_parity):
    sampling, ddim, paths = (pack_module(name) for name in ("nodes.engine.sampling", "styleid_core.ddim",
                                                            "styleid_core.paths"))
    (noise, content_features, sigmas), (style_noise, style_features, _) = captured["content"], captured["style"]
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features)
    before_each_step = []
    sampling.run_sampler(sampling.Guidance(m, golden.positive), start["samples"], KSAMPLER(ddim.sample_ddim), sigmas,
                         lambda step, x0, x, total: before_each_step.append(x / paths.vp_scale(sigmas[step])))
    assert_parity(f"{golden.steps} steps, sampling trajectory", torch.cat(before_each_step[1:]),
                  golden["output.default.trajectory"][:-1], STAGE)
