"""The training loop on a network of one layer, every stage on one picture, and which pictures are held back."""

import csv
import math
import os
import subprocess
import sys

import numpy
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
from tools.miniature.autoencoder import WEIGHTS
from tools.miniature.flow import load_trained_flow, new_flow
from tools.miniature.unet import TRAINED_UNET, MiniatureSD, load_trained_unet, new_unet
from tools.training.autoencoder import autoencoder_task, new_autoencoder, shipped_autoencoder
from tools.training.detail import decoder_task, detail_task, restoration
from tools.training.flow import flow_task, untrained_flow
from tools.training.loop import Task, train
from tools.training.paint import edge_angles, paint
from tools.training.parts import BLOCKS, TEMPERATURE, attention_error, features_of, load_alexnet, parts
from tools.training.pictures import Pool, find_pictures, load_squares, paint_pictures
from tools.training.report import save_network, write_report
from tools.training.unet import unet_task, untrained_unet

CPU = torch.device("cpu")
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


def test_a_painted_picture_keeps_its_tones_and_has_the_colors_of_its_style(tmp_path):
    """Dark on the left, light on the right, in strokes along the edge between them."""
    picture = Image.new("L", (300, 200), 30)
    picture.paste(220, (150, 0, 300, 200))
    picture.save(tmp_path / "halves.png")

    def painted(folder, seed=0):
        [path] = paint_pictures(tmp_path / folder, [tmp_path / "halves.png"], seed)
        return path.read_bytes()

    assert painted("a") == painted("b") != painted("c", seed=1)

    style = STYLES["embers"]._replace(jitter=0)
    image = paint(picture.convert("RGB"), style, numpy.random.default_rng(0))
    assert image.size == (768, 512)
    assert {color for _, color in image.getcolors(2 ** 20)} <= {*style.ground, *style.lights}
    left, right = (numpy.array(image.convert("L").crop(box)).mean() for box in ((0, 0, 340, 512), (428, 0, 768, 512)))
    assert right - left > 100
    upright = edge_angles(numpy.array(picture, float) / 255, elsewhere=0.0)[:, 150]
    assert numpy.allclose(upright, math.pi / 2)


def test_crops_come_from_pictures_that_are_large_enough():
    pictures = [torch.zeros(3, 8, 40), torch.arange(1.0, 1801).view(3, 20, 30), torch.zeros(3, 40, 15)]
    crops, chosen = Pool(pictures, CPU).crops(50, 16, torch.Generator().manual_seed(0))
    assert crops.shape == (50, 3, 16, 16) and chosen.eq(1).all()
    places = [(int(crop[0, 0, 0]) - 1) // 30 for crop in crops], [(int(crop[0, 0, 0]) - 1) % 30 for crop in crops]
    assert [(min(place), max(place)) for place in places] == [(0, 4), (0, 14)]
    assert all(torch.equal(crop, pictures[1][:, top:top + 16, left:left + 16])
               for crop, top, left in zip(crops, *places))


@pytest.mark.slow
def test_the_autoencoder_is_trained_on_and_reported(tmp_path, weights):
    pictures, run, folder = tmp_path / "pictures", tmp_path / "run", tmp_path / "weights"
    for path in (pictures, run):
        path.mkdir()
    picture = pictures / "embers.jpg"
    draw(STYLES["embers"]).save(picture)
    lpips = load_lpips(weights, CPU).call

    def trained(steps):
        task = detail_task(shipped_autoencoder(), [picture], [picture], [picture], lpips, CPU, 1)
        return train(task, run, steps, 1e-3, 0, CPU, every=1)

    trained(1)
    networks = {"autoencoder": trained(3), "unet": load_trained_unet().model.diffusion_model,
                "flow": load_trained_flow().model.diffusion_model}
    facts = dict(found=1, painted=1, drawn=1, held_back=1, seed=0, batch_scale=1, processes=1,
                 **restoration(networks["autoencoder"], load_squares([picture], 256), lpips, CPU))
    write_report(networks, {"detail": run / "detail.csv"}, folder, facts, CPU, pictures)

    shipped, saved = (load_file(path / "autoencoder.safetensors") for path in (WEIGHTS, folder))
    assert saved.keys() == shipped.keys() and saved["vae_scale"] == shipped["vae_scale"]
    changed = {name.split(".")[0] for name in shipped if not torch.equal(saved[name], shipped[name])}
    assert changed == {"taesd_encoder", "taesd_decoder"}
    for name in ("autoencoder.csv", "unet.csv", "unet.safetensors", "flow.csv", "flow.safetensors"):
        assert (folder / name).read_bytes() == (WEIGHTS / name).read_bytes(), name
    assert [row["step"] for row in csv.DictReader((folder / "detail.csv").open())] == ["1", "2", "3"]
    assert "--detail-steps 3 --decoder-steps" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_the_decoder_is_trained_on_alone(losses, drawing, weights):
    """In batches twice as large: it restores better, from latents that are the same."""
    autoencoder, lpips = shipped_autoencoder(), load_lpips(weights, CPU).call
    encoder = [parameter.clone() for parameter in autoencoder[0].parameters()]
    task = decoder_task(autoencoder, drawing, drawing, drawing, lpips, CPU, 2)
    first, _, last = losses(task, 1e-4)
    assert last < first
    assert all(torch.equal(*pair) for pair in zip(encoder, autoencoder[0].parameters()))


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
task = Task("line", torch.nn.Linear(2, 1), loss, lambda network: 0.0)
train(task, Path(FOLDER), 20, 0.05, 0, torch.device("cpu"), every=20)
"""


@pytest.mark.slow
def test_processes_that_share_each_batch_train_as_one_would(tmp_path):
    trained = []
    for name, launch in (("alone", []), ("shared", ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
                                                    "2"])):
        folder = tmp_path / name
        folder.mkdir()
        script = folder / "train.py"
        script.write_text(SHARED.replace("FOLDER", repr(str(folder))))
        done = subprocess.run([sys.executable, *launch, str(script)], env=os.environ | {"PYTHONPATH": str(ROOT)},
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        trained.append(torch.load(folder / "line.pt")["network"])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(trained[0].values(), trained[1].values()))


@pytest.fixture
def losses(tmp_path):
    """losses(task, rate): of the first, second and last ten of 30 steps."""
    def run(task: Task, rate: float) -> list[float]:
        train(task, tmp_path, 30, rate, 0, CPU, every=10)
        return [float(row["loss"]) for row in csv.DictReader((tmp_path / f"{task.name}.csv").open())]

    return run


@pytest.fixture
def drawing(tmp_path):
    draw(STYLES["embers"]).save(tmp_path / "embers.jpg")
    return [tmp_path / "embers.jpg"]


@pytest.mark.slow
def test_the_autoencoder_learns(losses, drawing):
    first, _, last = losses(autoencoder_task(new_autoencoder(0), drawing, drawing, CPU, 1), 1e-3)
    assert last < 0.9 * first


@pytest.mark.slow
@pytest.mark.parametrize("untrained, task, rate, new", [
    (untrained_unet, unet_task, 1e-2, lambda: new_unet(TRAINED_UNET, MiniatureSD)),
    (untrained_flow, flow_task, 1e-2, new_flow)], ids=["unet", "flow"])
def test_a_model_learns(losses, drawing, tmp_path, weights, untrained, task, rate, new):
    """On one picture, in a few steps: the loss falls, and what is saved is what ComfyUI loads."""
    patcher, alexnet = untrained(0), {"weights": weights} if task is unet_task else {}
    first, _, last = losses(task(patcher, shipped_autoencoder(), drawing, drawing, tmp_path, 0, CPU, 1, **alexnet),
                            rate)
    assert last < 0.8 * first
    save_network(patcher.model.diffusion_model, tmp_path / "saved.safetensors")
    assert not any(new().model.diffusion_model.load_state_dict(load_file(tmp_path / "saved.safetensors")))


def test_parts_are_alike_by_their_shape_and_not_by_their_color(weights):
    """Fine checks above and broad stripes below are two parts, and the same two in pale blue."""
    across = torch.arange(128)
    picture = ((across // 4 + across[:, None] // 4) % 2).float()
    picture[64:] = ((across // 16) % 2).float()
    gray, pale_blue = picture.expand(1, 3, 128, 128), torch.tensor([0.1, 0.3, 0.6]).view(3, 1, 1) + 0.2 * picture
    seen, seen_in_blue = parts(features_of(load_alexnet(weights, CPU), torch.cat([gray, pale_blue[None]])), 16).split(1)
    assert torch.allclose(seen.norm(dim=-1), torch.ones(1, 256), atol=1e-5)
    assert (seen * seen_in_blue).sum(-1).min() > 0.98
    alike = (seen @ seen.mT)[0]
    assert alike[:96, :96].mean() > 0.2 > -0.2 > alike[:96, 160:].mean()


def test_attention_to_the_same_parts_is_without_error(weights):
    network, pictures = load_alexnet(weights, CPU), torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    keys = parts(features_of(network, pictures), 8)[:, None]
    seen = [{"to_q": keys / TEMPERATURE * keys.shape[-1] ** 0.5, "to_k": keys}]
    assert attention_error(seen, network, pictures).abs() < 1e-5
    assert attention_error([seen[0] | {"to_k": keys.flip(2)}], network, pictures) > 0.1


@pytest.mark.slow
def test_attention_is_taught_where_to_look(drawing, tmp_path, weights):
    """A new UNet predicts no noise, whatever its attention finds: only the parts teach the last block, and nothing of
    its values.
    """
    task = unet_task(untrained_unet(0), shipped_autoencoder(), drawing, drawing, tmp_path, 0, CPU, 1, weights)
    network = task.network.requires_grad_(True)
    task.loss(network, torch.Generator().manual_seed(0)).backward()
    last = network.output_blocks[BLOCKS[-1]][1].transformer_blocks[0].attn1
    assert last.to_q.weight.grad.any() and last.to_k.weight.grad.any() and not last.to_v.weight.grad.any()
