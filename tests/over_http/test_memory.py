"""Memory of a server over many transfers."""

import json
import threading

import psutil
import pytest

from tools.workflow import find, saving

RUNS = 30
STEPS = (5, 6)


@pytest.fixture
def peak_memory(server):
    """peak_memory(work): (result of `work`, the server's resident memory in MB at most, looked at every 10 ms, and
    after it).
    """
    process = psutil.Process(server.pid)

    def measure(work):
        seen, done = [], threading.Event()

        def watch():
            while not done.wait(0.01):
                seen.append(process.memory_info().rss / 2 ** 20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        result = work()
        done.set()
        watcher.join()
        return result, max(seen), process.memory_info().rss / 2 ** 20

    return measure


@pytest.fixture
def sampling(prompt):
    """(graph, inputs of its StyleID Sampler): a transfer that ends in a latent. Without the autoencoder, whose
    activations are larger than the features and come and go as they like.
    """
    graph = prompt("styleid_simple")
    [id] = [id for id, node in graph.items() if node["class_type"] == "StyleIDSampler"]
    graph = {id: node for id, node in graph.items() if node["class_type"] not in ("VAEDecode", "SaveImage")}
    graph["save"] = {"class_type": "SaveLatent", "inputs": {"samples": [id, 0], "filename_prefix": "memory"}}
    for inputs in find(graph, "ImageScaleToTotalPixels"):
        inputs["megapixels"] = 0.0625
    return graph, graph[id]["inputs"]


def style_files(graph: dict, sampler: dict, run) -> dict[int, str]:
    """The style inverted into a file for each number of steps."""
    nodes = {"capture": {"class_type": "CaptureSelfAttention", "inputs": {"model": sampler["model"], "blocks": "auto"}}}
    settings = {"model": ["capture", 0], "latent": sampler["style"], "positive": sampler["positive"],
                "schedule": "official"}
    for steps in STEPS:
        inverted = f"invert {steps}"
        nodes[inverted] = {"class_type": "DDIMInvert", "inputs": settings | {"steps": steps}}
        nodes[f"save {steps}"] = saving(inverted, f"memory {steps}")
    outputs = run(graph | nodes).outputs
    return {steps: outputs[f"save {steps}"]["text"][0] for steps in STEPS}


@pytest.mark.slow
@pytest.mark.parametrize("from_files", [False, True])
def test_memory_does_not_grow(sampling, run, peak_memory, from_files):
    """30 transfers, all different, end with what three took: while they run and after."""
    graph, sampler = sampling
    sampler["steps"] = STEPS[0]
    assert run(graph).status == "success"  # encodes the pictures; ComfyUI keeps their latents
    if from_files:
        files = style_files(graph, sampler, run)
        graph["load"] = {"class_type": "LoadStyleIDFeatures", "inputs": {}}
        sampler |= {"style": ["load", 0], "style_features": ["load", 1]}
    peaks, rests = [], []
    for i in range(RUNS):
        sampler |= {"gamma": 0.5 + i / 100, "steps": STEPS[i % 2]}  # inverts anew
        if from_files:
            graph["load"]["inputs"]["file"] = files[sampler["steps"]]
        transfer, peak, rest = peak_memory(lambda: run(graph))
        assert transfer.status == "success"
        peaks.append(round(peak))
        rests.append(round(rest))
    assert max(peaks[3:]) <= 1.02 * max(peaks[:3]), peaks
    assert rests[-1] <= 1.02 * rests[2], rests


def test_an_error_does_not_keep_features_as_text(prompt, run):
    """ComfyUI's history keeps the inputs of a node that fails."""
    graph = prompt("styleid_nodes")
    [inject] = find(graph, "InjectStyleKV")
    inject["blocks"] = "3"  # was not captured
    failed = run(graph)
    assert failed.messages["execution_error"]["node_type"] == "InjectStyleKV"
    assert len(json.dumps(failed.messages)) < 10_000
