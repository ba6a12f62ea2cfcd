"""The blueprint, a box in ComfyUI's node library: opened, wired and run as a user does."""

import asyncio
import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest

from tools.client import run_prompt, saved_picture
from tools.workflow import find, use_demo_model, use_pictures

NAME, TRANSFORMERS = "Style Transfer (StyleID)", "Style Transfer (StyleID, transformers)"
SETTINGS = {"gamma": 0.75, "temperature": 1.5, "color_strength": 1, "steps": 50, "schedule": "official",
            "megapixels": 0.25}
OF_TRANSFORMERS = {"gamma": 0.75, "temperature": 1.5, "color_strength": 1, "steps": 20, "blocks": "auto",
                   "megapixels": 1}
CHECKPOINT = [["CheckpointLoaderSimple", {"ckpt_name": "sd15.safetensors"}, ["model", "clip", "vae"]]]
FILES = [["UNETLoader", {"unet_name": "z_image_bf16.safetensors"}, ["model"]],
         ["VAELoader", {"vae_name": "ae.safetensors"}, ["vae"]],
         ["CLIPLoader", {"clip_name": "qwen_3_4b.safetensors", "type": "lumina2"}, ["clip"]]]
WIRE = """([loaders, settings]) => {
    const box = app.graph.nodes[0];
    const add = (type, widgets) => {
        const node = LiteGraph.createNode(type);
        app.graph.add(node);
        for (const [name, value] of Object.entries(widgets)) node.widgets.find(w => w.name === name).value = value;
        return node;
    };
    const wire = (node, slot, name) => node.connect(slot, box, box.inputs.findIndex(input => input.name === name));
    for (const [type, widgets, names] of loaders) {
        const loader = add(type, widgets);
        names.forEach((name, slot) => wire(loader, slot, name));
    }
    wire(add("LoadImage", {image: "styleid_content.jpg"}), 0, "content");
    wire(add("LoadImage", {image: "styleid_style.jpg"}), 0, "style");
    const save = add("SaveImage", {});
    box.connect(0, save, 0);
    for (const [name, value] of Object.entries(settings)) box.widgets.find(w => w.name === name).value = value;
}"""


def box(page) -> dict:
    """{name: value} of the settings on its face."""
    return dict(page.page.evaluate("app.graph.nodes[0].widgets.map(w => [w.name, w.value])"))


def sent(page) -> dict:
    """The prompt that Run would queue, for the demo model."""
    return use_demo_model(page.prompt())


def drawn(server, prompt: dict) -> numpy.ndarray:
    def run():
        done = asyncio.run(run_prompt(server.url, prompt))
        assert done.status == "success"
        return asyncio.run(saved_picture(server.url, done))

    with ThreadPoolExecutor() as pool:  # the browser has an event loop of its own in this thread
        return numpy.asarray(pool.submit(run).result())


@pytest.fixture
def opened(page):
    page.load(NAME, "subgraphs")
    return page


@pytest.mark.parametrize("language", ["en"], indirect=True)
def test_they_are_in_the_node_library(server, page):
    with urllib.request.urlopen(f"{server.url}/global_subgraphs", timeout=60) as response:
        listed = json.load(response)
    assert {NAME, TRANSFORMERS} <= {entry["name"] for entry in listed.values() if entry["source"] == "custom_node"}


@pytest.mark.parametrize("language", ["en"], indirect=True)
def test_its_settings_reach_the_nodes_inside(opened):
    assert box(opened) == SETTINGS
    changed = {"gamma": 0.3, "temperature": 2, "color_strength": 0.5, "steps": 7, "schedule": "ddim",
               "megapixels": 0.04}
    opened.page.evaluate(WIRE, [CHECKPOINT, changed])
    prompt = sent(opened)
    assert opened.errors == []
    [inject], [adain] = find(prompt, "InjectStyleKV"), find(prompt, "LatentAdaIN")
    assert (inject["gamma"], inject["temperature"], adain["color_strength"]) == (0.3, 2, 0.5)
    assert [(each["steps"], each["schedule"]) for each in find(prompt, "DDIMInvert")] == [(7, "ddim")] * 2
    assert [each["megapixels"] for each in find(prompt, "ImageScaleToTotalPixels")] == [0.04] * 2


@pytest.mark.parametrize("language", ["en"], indirect=True)
def test_it_draws_what_the_graph_of_five_nodes_draws(server, opened):
    opened.page.evaluate(WIRE, [CHECKPOINT, {"steps": 6, "schedule": "ddim", "megapixels": 0.0156}])
    picture = drawn(server, sent(opened))
    opened.load("styleid_nodes")
    graph = use_pictures(sent(opened), ("styleid_content.jpg", "styleid_style.jpg"), 0.0156)
    for inputs in find(graph, "DDIMInvert"):
        inputs |= {"steps": 6, "schedule": "ddim"}
    assert picture.std() > 10 and (picture == drawn(server, graph)).all()


@pytest.mark.parametrize("language", ["en"], indirect=True)
def test_that_for_transformers_draws_what_its_graph_draws(server, page):
    page.load(TRANSFORMERS, "subgraphs")
    assert box(page) == OF_TRANSFORMERS
    page.page.evaluate(WIRE, [FILES, {"gamma": 0.3, "steps": 4, "blocks": "2-5", "megapixels": 0.0156}])
    prompt = sent(page)
    assert page.errors == []
    [sampler] = find(prompt, "StyleIDSampler")
    assert (sampler["gamma"], sampler["steps"], sampler["blocks"]) == (0.3, 4, "2-5")
    picture = drawn(server, prompt)
    page.load("styleid_transformer")
    graph = use_pictures(sent(page), ("styleid_content.jpg", "styleid_style.jpg"), 0.0156)
    [sampler] = find(graph, "StyleIDSampler")
    sampler |= {"gamma": 0.3, "steps": 4, "blocks": "2-5"}
    assert picture.std() > 10 and (picture == drawn(server, graph)).all()
