"""The table "What runs again" of docs/settings.md, from a server's progress."""

import asyncio

import pytest

from tools.client import MARKER, free
from tools.workflow import find


def options(graph):
    """Those of the sampling: by StyleID Options, or on the nodes they belong to."""
    [model] = (id for id, node in graph.items() if node["class_type"] == "StyleIDDemoModel")
    part = {"start_percent": 0.1, "end_percent": 0.9}
    for inputs in find(graph, "StyleIDSampler"):
        graph["options"] = {"class_type": "StyleIDOptions",
                            "inputs": part | {"cfg": 2.0, "cfg_max_sigma": 1000.0, "negative": [model, 1]}}
        inputs["options"] = ["options", 0]
    for inputs in find(graph, "InjectStyleKV"):
        inputs |= part
    for inputs in find(graph, "SamplerCustom"):
        inputs["cfg"] = 2.0


def set_inputs(**changes):
    """On every node of the pack that has them; in the graph of five, the blocks are those that are injected and not
    those captured.
    """
    def change(graph):
        for node in graph.values():
            if node["class_type"] in ("StyleIDSampler", "DDIMInvert", "InjectStyleKV", "LatentAdaIN"):
                node["inputs"] |= {name: value for name, value in changes.items() if name in node["inputs"]}

    return change


def exchange(k: int, image: str):
    def change(graph):
        find(graph, "LoadImage")[k]["image"] = image

    return change


def test_a_server_forgets_before_the_next_prompt_and_not_after_it(server, run):
    """Or tests that count what runs again would count once too much, on a busy machine."""
    graph = {id: node | {"inputs": node["inputs"] | ({"value": 2} if id == "number" else {})}
             for id, node in MARKER.items()}
    for _ in range(5):
        asyncio.run(free(server.url))
        cached = [set(run(graph).messages["execution_cached"]["nodes"]) for _ in range(3)]
        assert cached == [set(), set(graph), set(graph)]


CHANGES = [(set_inputs(gamma=0.4), 0), (set_inputs(temperature=1.2), 0), (set_inputs(color_strength=0.5), 0),
           (set_inputs(blocks="7-11"), 0), (options, 0), (exchange(0, "styleid_style.jpg"), 1),
           (exchange(1, "styleid_content.jpg"), 1)]


@pytest.mark.parametrize(("name", "steps"),
                         [("styleid_simple", 20), pytest.param("styleid_simple", 50, marks=pytest.mark.slow),
                          pytest.param("styleid_nodes", 50, marks=pytest.mark.slow)])
def test_the_table_of_what_runs_again(server, prompt, run, name, steps):
    asyncio.run(free(server.url))
    graph = prompt(name)
    set_inputs(steps=steps)(graph)
    # Other sizes: each call is of one picture.
    for inputs, megapixels in zip(find(graph, "ImageScaleToTotalPixels"), (0.01, 0.0156)):
        inputs |= {"megapixels": megapixels, "resolution_steps": 32}
    sampling = steps - (steps == 50)  # the paper's grid leaves one out
    assert run(graph).steps == 2 * steps + sampling
    for change, inversions in CHANGES:
        change(graph)
        tried = run(graph)
        assert tried.status == "success" and tried.steps == inversions * steps + sampling
