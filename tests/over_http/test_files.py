"""Inversions in files, on a server that has forgotten everything else."""

import asyncio

import pytest

from tools.client import free
from tools.workflow import find, saving

STEPS = 20


def five_nodes(prompt) -> tuple[dict, list[str]]:
    """The graph of five nodes and the ids of its inversions: content, style."""
    graph = prompt("styleid_nodes")
    for inversion in find(graph, "DDIMInvert"):
        inversion["steps"] = STEPS
    [adain] = find(graph, "LatentAdaIN")
    return graph, [adain[name][0] for name in ("content", "style")]


@pytest.fixture(scope="module")
def saved():
    return {}


@pytest.fixture
def files(server, prompt, run, saved):
    """Names of the content's and the style's file, which the first test saves."""
    if not saved:
        asyncio.run(free(server.url))
        graph, ids = five_nodes(prompt)
        for id in ids:
            graph[f"save {id}"] = saving(id, f"node {id}")
        tried = run(graph)
        assert tried.status == "success" and tried.steps == 3 * STEPS
        saved["files"] = [tried.outputs[f"save {id}"]["text"][0] for id in ids]
    asyncio.run(free(server.url))
    return saved["files"]


@pytest.mark.parametrize(("read", "calls"), [((0, 1), STEPS), ((1,), 2 * STEPS)], ids=["both", "only the style"])
def test_what_is_in_a_file_is_not_inverted_again(prompt, run, files, read, calls):
    graph, ids = five_nodes(prompt)
    [inject] = find(graph, "InjectStyleKV")
    inject["gamma"] = 0.4
    for k in read:
        graph[ids[k]] = {"class_type": "LoadStyleIDFeatures", "inputs": {"file": files[k]}}
    tried = run(graph)
    assert tried.status == "success" and tried.steps == calls


def test_one_style_for_many_contents_stays_inverted(server, prompt, run, files):
    graph, ids = five_nodes(prompt)
    graph[ids[1]] = {"class_type": "LoadStyleIDFeatures", "inputs": {"file": files[1]}}
    content, style = find(graph, "LoadImage")
    for image in (content["image"], style["image"]):
        content["image"] = image
        tried = run(graph)
        assert tried.status == "success" and tried.steps == 2 * STEPS


def test_a_file_that_is_gone_is_told_before_anything_runs(prompt, run, files):
    graph, ids = five_nodes(prompt)
    graph[ids[1]] = {"class_type": "LoadStyleIDFeatures", "inputs": {"file": "gone.safetensors"}}
    with pytest.raises(ValueError, match=r"There is no gone\.safetensors in models/styleid_features|not in list"):
        run(graph)
