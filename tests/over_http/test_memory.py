"""Memory of a server over many transfers."""

import threading

import psutil
import pytest

from tools.workflow import find

RUNS = 10


@pytest.fixture
def peak_memory(server):
    """peak_memory(work): (result of `work`, highest resident memory of the server in MB, looked at every 10 ms)."""
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
        return result, max(seen)

    return measure


def test_peak_memory_does_not_grow(prompt, run, peak_memory):
    """The peak of each of 10 transfers, all different, is no higher at the end than after the first three."""
    graph = prompt("styleid_simple")
    # Without the autoencoder, whose activations are larger than the features of a transfer and come and go as they like.
    [transfer_id] = [id for id, node in graph.items() if node["class_type"] == "StyleIDSampler"]
    graph = {id: node for id, node in graph.items() if node["class_type"] not in ("VAEDecode", "SaveImage")}
    graph["save"] = {"class_type": "SaveLatent", "inputs": {"samples": [transfer_id, 0], "filename_prefix": "memory"}}
    for inputs in find(graph, "ImageScaleToTotalPixels"):
        inputs["megapixels"] = 0.0625
    [sampler] = find(graph, "StyleIDSampler")
    sampler["steps"] = 10
    assert run(graph).status == "success"  # encodes the pictures; ComfyUI keeps their latents
    peaks = []
    for i in range(RUNS):
        sampler["gamma"] = 0.5 + i / 100
        transfer, peak = peak_memory(lambda: run(graph))
        assert transfer.status == "success"
        peaks.append(peak)
    assert max(peaks[3:]) <= 1.02 * max(peaks[:3]), [round(peak) for peak in peaks]
