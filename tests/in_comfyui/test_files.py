"""Save StyleID Features and Load StyleID Features."""

import gc
import logging
import re

import comfy.model_management
import comfy.supported_models
import folder_paths
import pytest
import torch
from cases import invert_both
from comfy_extras.nodes_model_merging import ModelMergeSimple
from companions import with_lora

import nodes
from styleid_core.storage import STORAGES
from tools.demo.transfer import sample_custom
from tools.miniature.seeded import SDXL, sdxl_conditioning
from tools.miniature.unet import WIDE_HEADS, load_unet

SETTINGS = dict(gamma=0.6, temperature=1.3)


class FP8(comfy.supported_models.SD15):
    """Weights in fp8, cast to bf16 in every layer."""
    manual_cast_dtype = torch.bfloat16


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Where features are saved, as an extra_model_paths.yaml would put it."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "styleid_features", ([str(tmp_path)], set()))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    return tmp_path


def save(pack, inverted, **more) -> str:
    """Name of the file."""
    noise, features, sigmas = inverted
    save = nodes.NODE_CLASS_MAPPINGS["SaveStyleIDFeatures"]
    output = save.execute(noise=noise, features=features, sigmas=sigmas, **more)
    return output.ui.as_dict()["text"][0]


def stylize(pack, model, case, content, style) -> torch.Tensor:
    (noise, content_features, sigmas), (style_noise, style_features, _) = content, style
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=model, content_features=content_features, style_features=style_features, **SETTINGS)
    return sample_custom(m, case.positive, sigmas, start)["samples"]


@pytest.mark.parametrize("feature_dtype", STORAGES)
def test_a_transfer_from_files_is_the_same(pack, model, case, feature_dtype):
    [recording] = pack.CaptureSelfAttention(model=model, feature_dtype=feature_dtype)
    kept = [pack.DDIMInvert(model=recording, latent=latent, positive=case.positive, steps=case.steps)
            for latent in (case.content, case.style)]
    read = [pack.LoadStyleIDFeatures(file=save(pack, inverted)) for inverted in kept]
    assert torch.equal(stylize(pack, model, case, *kept), stylize(pack, model, case, *read))


def test_one_node_with_a_style_from_a_file(pack, model, case, calls):
    """The style is of another size, so that it is inverted alone without a file too."""
    inputs = dict(model=model, content=case.content, positive=case.positive, steps=case.steps)
    style = {"samples": case.style["samples"][..., :8]}
    [expected] = pack.StyleIDSampler(style=style, blocks="7-11", **inputs)
    _, inverted = invert_both(pack, model, case, "official", style=style)
    noise, features, _ = pack.LoadStyleIDFeatures(file=save(pack, inverted))
    calls.clear()
    [result] = pack.StyleIDSampler(style=noise, style_features=features, blocks="7-11", **inputs)
    assert torch.equal(result["samples"], expected["samples"]) and len(calls) == case.steps  # of the sampling


def test_what_does_not_go_with_a_style_from_a_file(pack, model, case):
    inputs = dict(model=model, content=case.content, positive=case.positive)
    _, (noise, features, _) = invert_both(pack, model, case, "official", blocks="9-11")
    with pytest.raises(ValueError, match="style is the noise that belongs to them"):
        pack.StyleIDSampler(style=case.style, style_features=features, steps=case.steps, blocks="9", **inputs)
    for change in ({"steps": 4}, {"schedule": "ddim"}):
        with pytest.raises(ValueError, match="inverted in 5 steps of the schedule official, denoise 1, refine 0"):
            pack.StyleIDSampler(style=noise, style_features=features, blocks="9",
                                **inputs | {"steps": case.steps} | change)
    with pytest.raises(ValueError, match="were not captured. Choose from output 9-11"):
        pack.StyleIDSampler(style=noise, style_features=features, steps=case.steps, **inputs)


def test_files_are_listed_numbered_and_shown(pack, model, case, folder):
    content, style = invert_both(pack, model, case, "ddim")
    assert save(pack, content, filename_prefix="starry/night") == "starry/night_00001_.safetensors"
    name = save(pack, style, filename_prefix="starry/night", image=torch.rand(1, 600, 1200, 3))
    load = nodes.NODE_CLASS_MAPPINGS["LoadStyleIDFeatures"]
    [listed] = load.define_schema().inputs
    assert listed.options == ["starry/night_00001_.safetensors", name] and name == "starry/night_00002_.safetensors"
    assert load.validate_inputs(name) is True
    assert load.fingerprint_inputs(name) != load.fingerprint_inputs(listed.options[0])
    output = load.execute(name)
    [shown] = (folder / "temp").iterdir()
    assert output.ui and shown.suffix == ".png"
    # Features that were read can be written again, in part too.
    assert save(pack, output.result, filename_prefix="copy") == "copy_00001_.safetensors"
    assert folder.joinpath("copy_00001_.safetensors").stat().st_size > 1000


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_picture_of_any_channels_is_shown(pack, model, case, channels):
    content, _ = invert_both(pack, model, case, "ddim")
    output = nodes.NODE_CLASS_MAPPINGS["LoadStyleIDFeatures"].execute(
        save(pack, content, image=torch.rand(1, 64, 96, channels)))
    assert output.ui and output.result[1].blocks == content[1].blocks


@pytest.mark.parametrize(("image", "shape"), [((0, 64, 96, 3), "[0, 64, 96, 3]"), ((64, 96, 3), "[64, 96, 3]"),
                                              ((1, 64, 96, 5), "[1, 64, 96, 5]"), ((1, 0, 96, 3), "[1, 0, 96, 3]")])
def test_what_is_no_picture_is_refused_before_anything_is_written(pack, model, case, folder, image, shape):
    content, _ = invert_both(pack, model, case, "ddim")
    with pytest.raises(ValueError, match=f"The image has shape {re.escape(shape)}, and that of a picture is"):
        save(pack, content, image=torch.rand(image))
    assert not list(folder.rglob("*.*"))


@pytest.mark.parametrize("sigmas", [torch.tensor([1.0]), torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0]]),
                                    torch.tensor([2.0, torch.nan]), torch.tensor([2.0, -1.0])])
def test_sigmas_of_something_else_are_refused(pack, model, case, folder, sigmas):
    (noise, features, _), _ = invert_both(pack, model, case, "ddim")
    with pytest.raises(ValueError, match="The sigmas do not fall to the end of a sampling. Connect those of the DDIM "
                                         "Invert"):
        save(pack, (noise, features, sigmas))
    assert not list(folder.rglob("*.*"))


def test_a_mask_goes_along(pack, model, case):
    masked = case.content | {"noise_mask": torch.ones(1, 1, 128, 192)}
    content, _ = invert_both(pack, model, case, "ddim", content=masked)
    noise, _, _ = pack.LoadStyleIDFeatures(file=save(pack, content))
    assert torch.equal(noise["noise_mask"], masked["noise_mask"])


@pytest.mark.parametrize("prefix", ["", ".", "..", "../above", "a/../../b", "/absolute", "new\nline", "nul\0"])
def test_names_that_lead_elsewhere(pack, model, case, folder, prefix):
    content, _ = invert_both(pack, model, case, "ddim")
    with pytest.raises(ValueError, match="is no name of a file below models/styleid_features"):
        save(pack, content, filename_prefix=prefix)
    assert not list(folder.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["missing.safetensors", "../outside.safetensors", "other.txt"])
def test_no_such_file(pack, folder, name):
    (folder / "other.txt").write_text("text")
    (folder.parent / "outside.safetensors").write_text("text")
    told = nodes.NODE_CLASS_MAPPINGS["LoadStyleIDFeatures"].validate_inputs(name)
    assert f"There is no {name} in models/styleid_features" in told
    with pytest.raises(ValueError, match="Press R"):
        pack.LoadStyleIDFeatures(file=name)


def test_what_cannot_be_saved(pack, model, case):
    content, style = invert_both(pack, model, case, "ddim")
    [recomputing] = pack.CaptureSelfAttention(model=model, feature_device="recompute")
    with pytest.raises(ValueError, match="are recomputed, so there is nothing to save"):
        save(pack, pack.DDIMInvert(model=recomputing, latent=case.content, positive=case.positive, steps=2))
    with pytest.raises(ValueError, match="The features are empty. Put Capture Self-Attention"):
        save(pack, pack.DDIMInvert(model=model, latent=case.content, positive=case.positive, steps=2))
    half = {"samples": content[0]["samples"][..., :8]}
    with pytest.raises(ValueError, match="Connect the noise and the features of one DDIM Invert"):
        save(pack, (half, *content[1:]))


def test_a_cancelled_save_leaves_nothing(pack, model, case, folder):
    content, _ = invert_both(pack, model, case, "ddim")
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        save(pack, content)
    assert not list(folder.rglob("*.*"))


def test_a_folder_that_cannot_be_written(pack, model, case, folder):
    content, _ = invert_both(pack, model, case, "ddim")
    (folder / "file").write_text("text")
    with pytest.raises(ValueError, match="The features could not be saved in styleid_features"):
        save(pack, content, filename_prefix="file/style")


def test_other_weights_are_told(pack, model, case, caplog):
    content, style = (pack.LoadStyleIDFeatures(file=save(pack, inverted))
                      for inverted in invert_both(pack, model, case, "ddim"))
    caplog.set_level(logging.WARNING)
    stylize(pack, with_lora(model), case, content, style)
    assert "other weights" not in caplog.text
    stylize(pack, load_unet(weight_seed=1, unet_config=WIDE_HEADS), case, content, style)
    assert caplog.text.count("were made with other weights than those that sample") == 2


@pytest.fixture(scope="module")
def checkpoints():
    """By name: the model of the tests, another, their merge, which is patches until it is loaded, and the first in
    other precisions.
    """
    first, second = (load_unet(weight_seed=seed, unet_config=WIDE_HEADS) for seed in (0, 1))
    [merged] = ModelMergeSimple().merge(first, second, 0.6)
    halves = {str(dtype): load_unet(unet_config=WIDE_HEADS | dict(dtype=dtype))
              for dtype in (torch.float16, torch.bfloat16)}
    eight = load_unet(unet_config=WIDE_HEADS | dict(dtype=torch.float8_e4m3fn), family=FP8)
    return {"first": first, "second": second, "merged": merged, "fp8": eight, **halves}


@pytest.mark.parametrize("loaded", [None, "first", "merged"])
@pytest.mark.parametrize("made_by", ["first", "second", "merged", "fp8", "torch.bfloat16"])
def test_weights_are_those_that_sample(pack, checkpoints, case, caplog, made_by, loaded):
    """And not what lies in memory: a merge that is not loaded is one, and of a merge that is the first model is still
    itself.
    """
    [recording] = pack.CaptureSelfAttention(model=checkpoints[made_by], blocks="11")
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2,
                                     schedule="ddim")
    comfy.model_management.unload_all_models()
    if loaded:
        comfy.model_management.load_models_gpu([checkpoints[loaded]])
    precisions = {"first", "fp8", "torch.float16", "torch.bfloat16"}
    same = precisions if made_by in precisions else {made_by}
    for name, model in checkpoints.items():
        caplog.clear()
        pack.InjectStyleKV(model=model, content_features=features, style_features=features)
        assert ("other weights" in caplog.text) == (name not in same), name


def test_features_are_not_recomputed_by_other_weights(pack, case):
    """Also where those that made them are gone, or where the network is the same and patched."""
    first, second = (load_unet(weight_seed=seed, unet_config=WIDE_HEADS) for seed in (0, 1))
    [merged] = ModelMergeSimple().merge(first, second, 0.6)
    [recording] = pack.CaptureSelfAttention(model=first, blocks="11", feature_device="recompute")
    _, features, _ = pack.DDIMInvert(model=recording, latent=case.content, positive=case.positive, steps=2,
                                     schedule="ddim")
    pack.InjectStyleKV(model=first, content_features=features, style_features=features)
    for other in (second, merged):
        with pytest.raises(ValueError, match="recomputed, by a model that was not the one that is sampled"):
            pack.InjectStyleKV(model=other, content_features=features, style_features=features)
    del first, merged, recording, other
    comfy.model_management.unload_all_models()
    gc.collect()
    assert features.source.calls[0].model() is None
    with pytest.raises(ValueError, match="recomputed, by a model that was not the one that is sampled"):
        pack.InjectStyleKV(model=second, content_features=features, style_features=features)
    pack.InjectStyleKV(model=load_unet(unet_config=WIDE_HEADS), content_features=features, style_features=features)


def test_another_layout_is_refused(pack, model, case):
    xl = load_unet(unet_config=SDXL, family=comfy.supported_models.SDXL)
    [recording] = pack.CaptureSelfAttention(model=xl, blocks="3")
    inverted = pack.DDIMInvert(model=recording, latent=case.style, positive=sdxl_conditioning(), steps=2,
                               schedule="ddim")
    name = save(pack, inverted)
    content, _ = invert_both(pack, model, case, "ddim", blocks="3-11")
    with pytest.raises(ValueError,
                       match=r"output block 3 works on .* which does not fit .* style_features \[1, 96, 64\]"):
        stylize(pack, model, case, content, pack.LoadStyleIDFeatures(file=name))
