"""The training loop on a network of one layer, and which pictures are held back."""

import csv

import pytest
import torch
from PIL import Image

from training.loop import Task, train
from training.pictures import find_pictures, random_crops

TARGET = torch.tensor([[1.0, -2.0]])


def line_task(calls: list) -> Task:
    torch.manual_seed(0)

    def loss(network, generator):
        calls.append(1)
        x = torch.randn(8, 2, generator=generator)
        return (network(x) - x @ TARGET.T).square().mean()

    return Task("line", torch.nn.Linear(2, 1), loss, lambda network: (network.weight - TARGET).norm().item())


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path):
    def run(folder, calls):
        folder.mkdir(exist_ok=True)
        return train(line_task(calls), folder, 60, 0.05, 0, torch.device("cpu"), every=20)

    calls = []
    whole = run(tmp_path / "whole", calls)
    assert len(calls) == 60

    class Calls(list):
        def append(self, call):
            super().append(call)
            if len(self) == 45:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", Calls())
    calls = []
    resumed = run(tmp_path / "broken", calls)
    assert len(calls) == 20, "goes on from the checkpoint at step 40"
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    logs = [list(csv.DictReader((tmp_path / name / "line.csv").open())) for name in ("whole", "broken")]
    assert [[row["step"], row["held_back"]] for row in logs[0]] == [[row["step"], row["held_back"]] for row in logs[1]]
    assert [row["step"] for row in logs[0]] == ["20", "40", "60"]
    assert float(logs[0][-1]["held_back"]) < float(logs[0][0]["held_back"])


def test_the_papers_pictures_and_those_shown_are_never_trained_on(tmp_path):
    for name in ("photos/a", "photos/b", "styleid/content/c", "skimage/d"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    training, held_back = find_pictures(tmp_path)
    assert [path.name for path in training] == ["b.png"] and [path.name for path in held_back] == ["a.png"]
    with pytest.raises(FileNotFoundError, match="no picture"):
        find_pictures(tmp_path / "styleid" / "empty")


def test_crops_come_from_pictures_that_are_large_enough():
    pictures = [torch.zeros(3, 8, 40), torch.ones(3, 20, 30)]
    crops, chosen = random_crops(pictures, 16, 16, torch.Generator().manual_seed(0))
    assert crops.shape == (16, 3, 16, 16) and chosen.eq(1).all() and crops.eq(1).all()
