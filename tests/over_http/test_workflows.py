"""The example workflows on a server, as a user queues, changes and cancels them."""

import asyncio
import json
import time
from itertools import combinations
from pathlib import Path

import numpy
import pytest
from PIL import Image

from tools.client import fetch, free, object_info, saved_picture, upload
from tools.workflow import find, saving

EXAMPLES = Path(__file__).resolve().parents[2] / "example_workflows"


@pytest.fixture
def picture(server):
    """picture(run): the pixels that SaveImage wrote, as signed integers (height, width, 3)."""
    return lambda run: numpy.asarray(asyncio.run(saved_picture(server.url, run))).astype(int)


def test_both_examples_give_the_same_picture(prompt, run, picture):
    one_node, five_nodes = (picture(run(prompt(name))) for name in ("styleid_simple", "styleid_nodes"))
    assert one_node.shape == (128, 128, 3) and one_node.std() > 10
    assert abs(one_node - five_nodes).max() <= 2


@pytest.mark.quick
def test_a_transformer(prompt, run, picture):
    """Recomputed, as the example has it, and kept."""
    graph = prompt("styleid_transformer")
    [sampler], [options] = (find(graph, kind) for kind in ("StyleIDSampler", "StyleIDOptions"))
    sampler["steps"] = 6
    recomputed = picture(run(graph))
    options["feature_device"] = "auto"
    assert recomputed.shape == (128, 128, 3) and recomputed.std() > 10
    assert abs(recomputed - picture(run(graph))).max() <= 2


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_examples_are_laid_out_for_people(server, path):
    workflow = json.loads(path.read_text())
    assert len(workflow["groups"]) >= 3
    assert any(node["type"] == "MarkdownNote" and "gamma" in node["widgets_values"][0] for node in workflow["nodes"])
    assert Image.open(path.with_suffix(".jpg")).width > 600
    assert path.stem in json.loads(asyncio.run(fetch(server.url, "/workflow_templates")))["styleid"]


@pytest.mark.parametrize(("style_megapixels", "total"), [(0.0156, 50 + 49), (0.04, 50 + 50 + 49)])
def test_one_progress_bar_with_previews_over_the_whole_method(server, prompt, run, style_megapixels, total):
    """Pictures of one size are inverted together."""
    asyncio.run(free(server.url))
    graph = prompt("styleid_simple")
    find(graph, "ImageScaleToTotalPixels")[1]["megapixels"] = style_megapixels
    tried = run(graph)
    assert tried.status == "success"
    maxima = {maximum for _, _, maximum in tried.progress if maximum > 1}
    values = [value for _, value, maximum in tried.progress if maximum > 1]
    assert maxima == {total} and values == sorted(values) and values[-1] == total
    assert tried.previews >= 10


def test_cancelling_stops_at_once_and_loses_nothing(server, prompt, run, picture):
    # Or what a test before has inverted alone, and not in one batch, gives other roundings.
    asyncio.run(free(server.url))
    graph, other = prompt("styleid_simple"), prompt("styleid_simple")
    for each in (graph, other):
        [sampler] = find(each, "StyleIDSampler")
        sampler["steps"] = 20
    before = picture(run(graph))
    for step in (8, 28):  # in the inversion and in the sampling
        sampler["gamma"] = step / 1000
        asyncio.run(free(server.url))
        start = time.time()
        cancelled = run(other, interrupt_at=step)
        assert cancelled.status == "interrupted"
        assert cancelled.progress[-1][1] <= step + 8, "sampling went on"
        assert time.time() - start < 60
    asyncio.run(free(server.url))
    again = run(graph)
    assert again.progress[-1][1] == 40, "the picture came from ComfyUI's cache"
    assert (picture(again) == before).all()


def test_changing_gamma_runs_only_the_sampling(prompt, run):
    graph = prompt("styleid_nodes")
    assert run(graph).status == "success"
    [inject] = find(graph, "InjectStyleKV")
    inject["gamma"] = 0.4
    second = run(graph)
    executed = {graph[id]["class_type"] for id in graph if id not in second.messages["execution_cached"]["nodes"]}
    assert executed == {"InjectStyleKV", "SamplerCustom", "VAEDecode", "SaveImage"}
    assert {maximum for _, _, maximum in second.progress if maximum > 1} == {49}, "model calls beside the sampling"


@pytest.mark.quick
def test_frames_in_small_batches(prompt, run):
    """Rebatch Latents before the sampler: ComfyUI runs it for each small batch, and the features of one are all there
    are.
    """
    graph = prompt("styleid_simple")
    [sampler] = find(graph, "StyleIDSampler")
    graph["frames"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": sampler["content"], "amount": 3}}
    graph["batches"] = {"class_type": "RebatchLatents", "inputs": {"latents": ["frames", 0], "batch_size": 2}}
    sampler |= {"content": ["batches", 0], "steps": 3, "schedule": "ddim"}
    tried = run(graph)
    assert tried.status == "success"
    assert [len(output["images"]) for output in tried.outputs.values()] == [3]
    assert [value for _, value, maximum in tried.progress if maximum == 6] == [*range(1, 7)] * 2


@pytest.mark.parametrize(("name", "class_type", "knob"), [("styleid_controlnet", "ControlNetApplyAdvanced", "strength"),
                                                          ("styleid_lora", "LoraLoaderModelOnly", "strength_model")])
def test_what_is_added_to_the_graph_changes_the_picture(prompt, run, picture, name, class_type, knob):
    graph = prompt(name)
    [sampler], [added] = find(graph, "StyleIDSampler"), find(graph, class_type)
    sampler |= {"steps": 6, "schedule": "ddim"}
    with_it = picture(run(graph))
    added[knob] = 0.0
    without = picture(run(graph))
    assert with_it.std() > 10 and without.std() > 10
    assert abs(with_it - without).mean() > 1


@pytest.mark.parametrize(("name", "class_type", "key"), [("styleid_sky", "InjectStyleKV", "style_mask"),
                                                         ("styleid_sky", "LatentAdaIN", "style_mask"),
                                                         ("styleid_curve", "InjectStyleKV", "gamma_curve")])
def test_what_an_example_shows_changes_the_picture(prompt, run, picture, name, class_type, key):
    graph = prompt(name)
    for inversion in find(graph, "DDIMInvert"):
        inversion |= {"steps": 6, "schedule": "ddim"}
    with_it = picture(run(graph))
    for each in find(graph, class_type):
        del each[key]
    assert abs(with_it - picture(run(graph))).mean() > 0.5


def test_a_grid_costs_its_samplings(server, prompt, run, picture):
    if "TextOverlay" not in asyncio.run(object_info(server.url)):
        pytest.skip("this ComfyUI has no Draw Text Overlay")
    asyncio.run(free(server.url))
    graph = prompt("styleid_grid")
    for inversion in find(graph, "DDIMInvert"):
        inversion |= {"steps": 6, "schedule": "ddim"}
    [sweep], [grid] = find(graph, "StyleIDSweep"), find(graph, "ImageGrid")
    sweep |= {"gamma": "0, 1", "temperature": "0.5, 1, 4"}
    grid |= {"cell_width": 128, "cell_height": 128, "padding": 0}
    tried = run(graph)
    ended = [node for node, value, maximum in tried.progress if value == maximum > 1]
    assert sorted(graph[node]["class_type"] for node in ended) == ["DDIMInvert"] * 2 + ["SamplerCustom"] * 6
    drawn = picture(tried)
    assert drawn.shape == (3 * 128, 2 * 128, 3)
    cells = [cell[64:] for row in numpy.split(drawn, 3) for cell in numpy.split(row, 2, axis=1)]  # below the labels
    assert min(abs(a - b).mean() for a, b in combinations(cells, 2)) > 0.5


def test_one_style_from_a_file_for_a_folder_of_contents(server, prompt, run):
    graph = prompt("styleid_nodes")
    [adain] = find(graph, "LatentAdaIN")
    style, _ = adain["style"]
    for inversion in find(graph, "DDIMInvert"):
        inversion["steps"] = 8
    graph["save"] = saving(style, "style")
    [saved] = run(graph).outputs["save"]["text"]
    for name in ("styleid_content.jpg", "styleid_style.jpg"):
        data = asyncio.run(fetch(server.url, "/view", filename=name, type="input"))
        asyncio.run(upload(server.url, "styleid_contents", name, data))
    many = prompt("styleid_many")
    [load], [sampler] = find(many, "LoadStyleIDFeatures"), find(many, "StyleIDSampler")
    load["file"], sampler["steps"] = saved, 8
    tried = run(many)
    assert tried.status == "success" and [len(output["images"]) for output in tried.outputs.values()] == [2]
    bars = [(value, maximum) for node, value, maximum in tried.progress if many[node]["class_type"] == "StyleIDSampler"]
    assert sum(value == maximum for value, maximum in bars) == 2 and {maximum for _, maximum in bars} == {16}


def test_sdxl_records_and_injects_its_own_blocks(prompt, run, picture):
    graph = prompt("styleid_sdxl")
    [sampler], [options] = find(graph, "StyleIDSampler"), find(graph, "StyleIDOptions")
    sampler["steps"], options["refine"] = 6, 1
    injected = picture(run(graph))
    sampler["preset"] = "custom"
    sampler["blocks"] = ""
    assert abs(injected - picture(run(graph))).mean() > 1


@pytest.mark.parametrize(("class_type", "off"), [("ControlNetApplyAdvanced", {"strength": 0.0}),
                                                 ("StyleIDStartFrequencies", {"keep": 1.0})])
def test_what_holds_the_structure_changes_the_picture(prompt, run, picture, class_type, off):
    graph = prompt("styleid_sdxl_structure")
    for inversion in find(graph, "DDIMInvert"):
        inversion["steps"] = 6
    with_it = picture(run(graph))
    for inputs in find(graph, class_type):
        inputs |= off
    assert abs(with_it - picture(run(graph))).mean() > 0.5


@pytest.mark.quick
def test_a_mistake_is_told_in_the_users_words(prompt, run):
    graph = prompt("styleid_simple")
    [sampler] = find(graph, "StyleIDSampler")
    sampler["blocks"] = "6-12"
    failed = run(graph)
    assert failed.status == "error"
    error = failed.messages["execution_error"]
    assert error["exception_type"] == "ValueError" and error["node_type"] == "StyleIDSampler"
    assert "output block 12 of this model has no self-attention. Choose from output 3-11" in error["exception_message"]
