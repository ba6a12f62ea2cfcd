"""The training loop on a network of one layer, the decoder's stage on one picture, and which pictures are held back."""

import csv
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import tools.in_process  # noqa: F401

# isort: split
from styleid_core.metrics.networks import load_lpips
from tools.demo.draw_style import STYLES, draw
from tools.demo.measures import fine_energy
from tools.host import ROOT
from tools.miniature.flow import CHANNELS, new_flow
from tools.miniature.unet import WEIGHTS, load_trained_unet
from tools.training.autoencoder import shipped_autoencoder
from tools.training.decoder import decoder_task, restoration
from tools.training.flow import flow_task
from tools.training.flow_autoencoder import flow_autoencoder_task, widened
from tools.training.loop import Task, train
from tools.training.pictures import find_pictures, load_squares, random_crops
from tools.training.report import save_network, write_report

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


@pytest.mark.slow
def test_the_decoder_alone_is_trained_and_reported(tmp_path, weights):
    pictures, run, folder, device = tmp_path / "pictures", tmp_path / "run", tmp_path / "weights", torch.device("cpu")
    for path in (pictures, run):
        path.mkdir()
    picture = pictures / "embers.jpg"
    draw(STYLES["embers"]).save(picture)
    lpips = load_lpips(weights, device).call

    def trained(steps):
        task = decoder_task(shipped_autoencoder(), [picture], [picture], [picture], lpips, device)
        return train(task, run, steps, 1e-3, 0, device, every=1)

    trained(1)
    autoencoder = torch.nn.Sequential(shipped_autoencoder()[0], trained(3))
    facts = dict(found=1, drawn=0, strokes=1, held_back=1, seed=0, **restoration(autoencoder, load_squares([picture], 256), lpips, device))
    write_report(autoencoder, load_trained_unet().model.diffusion_model, run, folder, facts, device, pictures)

    shipped, saved = (load_file(path / "autoencoder.safetensors") for path in (WEIGHTS, folder))
    assert saved.keys() == shipped.keys()
    assert {name.split(".")[0] for name in shipped if not torch.equal(saved[name], shipped[name])} == {"taesd_decoder"}
    for name in ("autoencoder.csv", "unet.csv", "unet.safetensors"):
        assert (folder / name).read_bytes() == (WEIGHTS / name).read_bytes()
    assert [row["step"] for row in csv.DictReader((folder / "decoder.csv").open())] == ["1", "2", "3"]
    assert "--decoder-steps 3 --unet-steps" in (folder / "README.md").read_text()


def test_fine_energy_is_power_above_a_quarter_of_nyquists_frequency():
    x = torch.arange(256.0)
    coarse, fine = (torch.sin(2 * torch.pi * x / period).expand(1, 3, 256, 256) for period in (16, 4))
    assert fine_energy(coarse) < 1e-6 * fine_energy(fine)
    assert torch.allclose(fine_energy(coarse + 0.5 * fine), 0.25 * fine_energy(fine), rtol=1e-4)


SHARED = """
import torch, torch.distributed
from tools.training.loop import gathered, own_part, Task, train
from pathlib import Path

def loss(network, generator):
    [x] = own_part(torch.randn(8, 2, generator=generator))
    return (network(x) - x.sum(1, keepdim=True)).square().mean()

if torch.distributed.is_torchelastic_launched():
    torch.distributed.init_process_group("gloo")
assert gathered(own_part(list(range(5)))[0]) == list(range(5))
torch.manual_seed(0)
train(Task("line", torch.nn.Linear(2, 1), loss, lambda network: 0.0), Path(FOLDER), 20, 0.05, 0, torch.device("cpu"), every=20)
"""


@pytest.mark.slow
def test_processes_that_share_each_batch_train_as_one_would(tmp_path):
    trained = []
    for name, launch in (("alone", []), ("shared", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"])):
        folder = tmp_path / name
        folder.mkdir()
        script = folder / "train.py"
        script.write_text(SHARED.replace("FOLDER", repr(str(folder))))
        done = subprocess.run([sys.executable, *launch, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True,
                              text=True)
        assert done.returncode == 0, done.stderr
        trained.append(torch.load(folder / "line.pt")["network"])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(trained[0].values(), trained[1].values()))


def test_a_widened_autoencoder_knows_what_it_knew():
    narrow, wide, x = shipped_autoencoder(), widened(shipped_autoencoder(), CHANNELS, 0), torch.rand(1, 3, 32, 32)
    with torch.inference_mode():
        z = wide[0](x)
        z[:, 4:] = 0
        assert torch.allclose(z[:, :4], narrow[0](x), atol=1e-5) and torch.allclose(wide[1](z), narrow[1](z[:, :4]), atol=1e-5)


@pytest.mark.slow
def test_the_flow_autoencoder_learns(tmp_path, weights):
    """On one picture whose green the narrow one loses, in a few steps: the loss falls."""
    draw(STYLES["waves"]).save(tmp_path / "waves.jpg")
    cpu, pictures = torch.device("cpu"), [tmp_path / "waves.jpg"]
    lpips = load_lpips(weights, cpu).call
    train(flow_autoencoder_task(pictures, pictures, pictures, lpips, 0, cpu), tmp_path, 30, 1e-3, 0, cpu, every=10)
    rows = [float(row["loss"]) for row in csv.DictReader((tmp_path / "flow_autoencoder.csv").open())]
    assert rows[-1] < 0.9 * rows[0]


@pytest.mark.slow
def test_the_flow_transformer_learns(tmp_path):
    """On one picture, in a few steps: the loss falls, and what is saved is what ComfyUI loads."""
    draw(STYLES["embers"]).save(tmp_path / "embers.jpg")
    cpu, pictures = torch.device("cpu"), [tmp_path / "embers.jpg"]
    encoder = widened(shipped_autoencoder(), CHANNELS, 0)[0]
    network = train(flow_task(encoder, pictures, pictures, tmp_path, 0, cpu), tmp_path, 30, 1e-2, 0, cpu, every=10)
    rows = [float(row["loss"]) for row in csv.DictReader((tmp_path / "flow.csv").open())]
    assert rows[-1] < 0.8 * rows[0]
    save_network(network, tmp_path / "flow.safetensors")
    loaded = new_flow().model.diffusion_model
    assert not any(loaded.load_state_dict(load_file(tmp_path / "flow.safetensors")))
