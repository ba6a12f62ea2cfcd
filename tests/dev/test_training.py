"""The training loop on a network of one layer, every stage on one picture, and which pictures are held back."""

import csv
import math

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
from tools.miniature.autoencoder import WEIGHTS
from tools.miniature.flow import load_trained_flow, new_flow
from tools.miniature.unet import TRAINED_UNET, MiniatureSD, load_trained_unet, new_unet
from tools.training.autoencoder import autoencoder_task, detail_task, new_autoencoder, shipped_autoencoder
from tools.training.diffusion import encode, flow_task, unet_task, untrained_flow, untrained_unet
from tools.training.loop import Task, save_network, train
from tools.training.paint import edge_angles, paint
from tools.training.parts import BLOCKS, TEMPERATURE, attention_error, features_of, load_alexnet, parts
from tools.training.pictures import Data, Pool, find_pictures, paint_pictures

CPU = torch.device("cpu")
TARGET = torch.tensor([[1.0, -2.0]])


@pytest.fixture(autouse=True)
def one_batch_held_back(monkeypatch):
    monkeypatch.setattr("tools.training.loop.HELD_BACK_BATCHES", 1)


def line_task(calls: list) -> Task:
    torch.manual_seed(0)

    def loss(network, calls, generator):
        calls.append(1)
        x = torch.randn(8, 2, generator=generator)
        return (network(x) - x @ TARGET.T).square().mean()

    return Task("line", torch.nn.Linear(2, 1), loss, training=calls, held_back=[])


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(tmp_path):
    def run(folder, calls):
        folder.mkdir(exist_ok=True)
        return train(line_task(calls), folder, 60, 0.05, every=20)

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
def test_the_autoencoder_is_trained_on_and_saved(tmp_path, drawing, weights):
    lpips = load_lpips(weights, CPU).call

    def trained(steps):
        return train(detail_task(shipped_autoencoder(), drawing, lpips), tmp_path, steps, 1e-3, every=1)

    trained(1)
    save_network(trained(3), tmp_path / "autoencoder.safetensors")
    shipped, saved = (load_file(path / "autoencoder.safetensors") for path in (WEIGHTS, tmp_path))
    assert saved.keys() == shipped.keys() and saved["vae_scale"] == shipped["vae_scale"]
    changed = {name.split(".")[0] for name in shipped if not torch.equal(saved[name], shipped[name])}
    assert changed == {"taesd_encoder", "taesd_decoder"}
    assert [row["step"] for row in csv.DictReader((tmp_path / "detail.csv").open())] == ["1", "2", "3"]


@pytest.mark.parametrize("name, shipped", [
    ("autoencoder", shipped_autoencoder),
    ("unet", lambda: load_trained_unet().model.diffusion_model),
    ("flow", lambda: load_trained_flow().model.diffusion_model)])
def test_what_ships_is_saved_as_it_is(tmp_path, name, shipped):
    file = f"{name}.safetensors"
    save_network(shipped(), tmp_path / file)
    assert (tmp_path / file).read_bytes() == (WEIGHTS / file).read_bytes()


@pytest.mark.slow
def test_the_decoder_is_trained_on_alone(losses, drawing, weights, monkeypatch):
    """In batches twice as large: it restores better, from latents that are the same."""
    monkeypatch.setattr("tools.training.autoencoder.BATCH", 8)
    monkeypatch.setattr("tools.training.autoencoder.STROKES", 2)
    autoencoder, lpips = shipped_autoencoder(), load_lpips(weights, CPU).call
    encoder = [parameter.clone() for parameter in autoencoder.taesd_encoder.parameters()]
    first, _, last = losses(detail_task(autoencoder, drawing, lpips, decoder_alone=True), 1e-4)
    assert last < first
    assert all(torch.equal(*pair) for pair in zip(encoder, autoencoder.taesd_encoder.parameters()))


def test_fine_energy_is_power_above_a_quarter_of_nyquists_frequency():
    x = torch.arange(256.0)
    coarse, fine = (torch.sin(2 * torch.pi * x / period).expand(1, 3, 256, 256) for period in (16, 4))
    assert fine_energy(coarse) < 1e-6 * fine_energy(fine)
    assert torch.allclose(fine_energy(coarse + 0.5 * fine), 0.25 * fine_energy(fine), rtol=1e-4)


@pytest.fixture
def losses(tmp_path):
    """losses(task, rate): of the first, second and last ten of 30 steps."""
    def run(task: Task, rate: float) -> list[float]:
        train(task, tmp_path, 30, rate, every=10)
        return [float(row["loss"]) for row in csv.DictReader((tmp_path / f"{task.name}.csv").open())]

    return run


@pytest.fixture
def drawing(tmp_path):
    draw(STYLES["embers"]).save(tmp_path / "embers.jpg")
    paths = [tmp_path / "embers.jpg"]
    return Data(paths, paths, paths, CPU)


@pytest.mark.slow
def test_the_autoencoder_learns(losses, drawing):
    first, _, last = losses(autoencoder_task(new_autoencoder(), drawing), 1e-3)
    assert last < 0.9 * first


@pytest.mark.slow
@pytest.mark.parametrize("stage, untrained, new", [
    ("unet", untrained_unet, lambda: new_unet(TRAINED_UNET, MiniatureSD)),
    ("flow", untrained_flow, new_flow)], ids=["unet", "flow"])
def test_a_model_learns(losses, drawing, tmp_path, weights, stage, untrained, new):
    """On one picture, in a few steps: the loss falls, and what is saved is what ComfyUI loads."""
    model, autoencoder = untrained().model, shipped_autoencoder()
    samples = encode(autoencoder, drawing)
    task = (unet_task(model, samples, autoencoder, load_alexnet(weights, CPU)) if stage == "unet"
            else flow_task(model, samples))
    first, _, last = losses(task, 1e-2)
    assert last < 0.8 * first
    save_network(model.diffusion_model, tmp_path / "saved.safetensors")
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
    queries = keys / TEMPERATURE * keys.shape[-1] ** 0.5
    assert attention_error([(queries, keys)], network, pictures).abs() < 1e-5
    assert attention_error([(queries, keys.flip(2))], network, pictures) > 0.1


@pytest.mark.slow
def test_attention_is_taught_where_to_look(drawing, weights):
    """A new UNet predicts no noise, whatever its attention finds: only the parts teach the last block, and nothing of
    its values.
    """
    autoencoder = shipped_autoencoder()
    task = unet_task(untrained_unet().model, encode(autoencoder, drawing), autoencoder, load_alexnet(weights, CPU))
    task.loss(task.network, task.training, torch.Generator().manual_seed(0)).backward()
    last = task.network.output_blocks[BLOCKS[-1]][1].transformer_blocks[0].attn1
    assert last.to_q.weight.grad.any() and last.to_k.weight.grad.any() and not last.to_v.weight.grad.any()
