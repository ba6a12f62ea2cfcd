"""Features in a file: back to the bit, and every file that is not as it was written is refused in a sentence."""

import json
import random
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from styleid_core import style_file
from styleid_core.blocks import Block
from styleid_core.features import Features, Kept, Origin
from styleid_core.settings import InversionSettings
from styleid_core.storage import STORAGES, store, tensors_in
from styleid_core.style_file import Inverted, checksum, load, save

BLOCKS = [Block("output", 6, 0), Block("output", 7, 0)]
SIGMAS = [0.1, 1.0, 10.0]


def inverted(storage: str = "auto", batch: int = 1, **optional) -> Inverted:
    torch.manual_seed(0)
    latent = torch.randn(batch, 4, 4, 6)
    steps = [[store(torch.randn(batch, 24, 8), storage, torch.clone) for _ in BLOCKS] for _ in SIGMAS]
    origin = Origin("weights", "prompt", InversionSettings(3))
    return Inverted(latent * 10, Features(SIGMAS, BLOCKS, Kept(steps), latent, origin),
                    torch.tensor([10.0, 1.0, 0.1, 0.0]), **optional)


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_gives_back_what_it_was_given(tmp_path, storage):
    before = inverted(storage, 2, noise_mask=torch.rand(1, 1, 32, 48), picture=torch.zeros(8, 12, 3, dtype=torch.uint8))
    save(before, tmp_path / "style.safetensors")
    after = load(tmp_path / "style.safetensors")
    kept = Kept([after.features.source.step(i) for i in range(len(SIGMAS))])
    after = after._replace(features=after.features._replace(source=kept))
    assert after.features[:2] == (SIGMAS, BLOCKS) and after.features.origin == before.features.origin
    pairs = list(zip(tensors_in(before), tensors_in(after), strict=True))
    assert len(pairs) >= 5 + 6 and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)
    assert [path.name for path in tmp_path.iterdir()] == ["style.safetensors"]


def test_some_of_the_blocks(tmp_path):
    before = inverted()
    before = before._replace(noise=before.features.latent)  # one tensor in two places
    save(before, tmp_path / "style.safetensors")
    [n] = load(tmp_path / "style.safetensors").features.source.only([1]).step(2)
    assert torch.equal(n, before.features.source.steps[2][1])


class CancelError(Exception):
    pass


@pytest.mark.parametrize("at", [0, 5])
def test_a_cancelled_save_leaves_no_file(tmp_path, at):
    calls = iter(range(100))

    def between():
        if next(calls) == at:
            raise CancelError

    with pytest.raises(CancelError):
        save(inverted(), tmp_path / "style.safetensors", between)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch):
    def full(tensors, path, metadata):
        path.write_bytes(b"half")
        raise style_file.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(style_file, "save_file", full)
    with pytest.raises(OSError, match="style.safetensors could not be written: No space left"):
        save(inverted(), tmp_path / "style.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_exchanged_after_loading(tmp_path):
    path = tmp_path / "style.safetensors"
    save(inverted(), path)
    source = load(path).features.source
    save(inverted(batch=2), path)
    with pytest.raises(ValueError, match="style.safetensors has changed since it was loaded"):
        source.step(0)


def flip(data: bytearray, rng: random.Random):
    at = rng.choice((rng.randrange(len(data)), rng.randrange(1500)))
    data[at] ^= 1 << rng.randrange(8)


def cut(data: bytearray, rng: random.Random):
    del data[rng.randrange(len(data)):]


def header_length(data: bytearray, rng: random.Random):
    data[:8] = rng.choice((0, 1, 7, len(data), 2 ** 40, 2 ** 64 - 1, rng.randrange(1, 5000))).to_bytes(8, "little")


def insert(data: bytearray, rng: random.Random):
    at = rng.randrange(len(data))
    data[at:at] = bytes(rng.randrange(1, 9))


def swap(data: bytearray, rng: random.Random):
    """Two parts of the values."""
    a, b = rng.sample(range(2500, len(data) - 64, 64), 2)
    if data[a:a + 64] == data[b:b + 64]:
        data[a] ^= 1
    data[a:a + 64], data[b:b + 64] = data[b:b + 64], data[a:a + 64]


@pytest.mark.parametrize("storage", ["auto", "int8"])
@pytest.mark.parametrize("damage", [flip, cut, header_length, insert, swap])
def test_a_damaged_file_is_refused(tmp_path, damage, storage):
    path = tmp_path / "style.safetensors"
    save(inverted(storage), path)
    whole = path.read_bytes()
    for seed in range(200):
        data = bytearray(whole)
        damage(data, random.Random(seed))
        path.write_bytes(data)
        if data == whole:
            continue
        with pytest.raises(ValueError, match=r"^style\.safetensors [\s\S]+\.$"):
            load(path)


def rewritten(path, change):
    """The file with `change(header, tensors)` and a checksum that is right again."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["header"])
        tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
    header = change(header, tensors) or header
    text, tensors = json.dumps(header), dict(sorted(tensors.items()))
    save_file(tensors, path, {"header": text, "checksum": checksum(text, tensors, lambda: None)})


@pytest.mark.parametrize(("more", "settings"), [({}, InversionSettings(3, "ddim", 0.5)), (
    {"refine": "2", "inversion": "fireflow"}, InversionSettings(3, "ddim", 0.5, 2, "fireflow"))])
def test_a_file_of_version_1(tmp_path, more, settings):
    """It told settings as texts, and the first of it neither refine nor inversion."""
    path = tmp_path / "style.safetensors"
    save(inverted(), path)
    origin = {"weights": "w", "prompt": "p", "schedule": "ddim", "steps": "3", "denoise": "0.5", **more}
    rewritten(path, lambda header, tensors: header.update(format=1, origin=origin))
    assert load(path).features.origin == Origin("w", "p", settings)


HOSTILE = {
    "another format": (lambda header, tensors: header.update(format=3),
                       "has the format 3, and this version reads 1 and 2"),
    "a long format": (lambda header, tensors: header.update(format="9" * 5000), "has the format 9{20}, and"),
    "no header": (lambda header, tensors: ["nothing"], "is not as Save StyleID Features writes it"),
    "no sigmas": (lambda header, tensors: header.pop("sigmas") is None, "is not as Save"),
    "text for sigmas": (lambda header, tensors: header.update(sigmas=["a", "b", "c"]), "could not convert"),
    "falling sigmas": (lambda header, tensors: header.update(sigmas=[10, 1, 0.1]), "do not fit together"),
    "NaN": (lambda header, tensors: header.update(sigmas=[0.1, float("nan"), 10]), "do not fit together"),
    "more steps": (lambda header, tensors: header.update(sigmas=[0.1, 1, 10, 11]), "do not fit together"),
    "a billion of blocks": (lambda header, tensors: header.update(blocks=[["output", 10 ** 9, 0]] * 2),
                            "do not fit together"),
    "blocks of text": (lambda header, tensors: header.update(blocks="../../etc/passwd"), "not enough values"),
    "another origin": (lambda header, tensors: header.update(origin={"__class__": "x"}), "is not as Save"),
    "no noise": (lambda header, tensors: tensors.pop("noise") is None, "is not as Save"),
    "noise of another shape": (lambda header, tensors: tensors.update(noise=torch.ones(1, 4, 2, 2)),
                               "do not fit together"),
    "noise of NaN": (lambda header, tensors: tensors.update(noise=tensors["noise"] * float("nan")),
                     "do not fit together"),
    "rising sigmas to sample with": (lambda header, tensors: tensors.update(sigmas=torch.arange(4.0)),
                                     "do not fit together"),
    "a step less": (lambda header, tensors: tensors.pop("2.1") is None, "do not fit together"),
    "a tensor more": (lambda header, tensors: tensors.update({"../2.1": torch.ones(1)}), "do not fit together"),
    "other tokens in a step": (lambda header, tensors: tensors.update({"1.0": torch.ones(1, 23, 8)}),
                               "do not fit together"),
    "integers": (lambda header, tensors: tensors.update({"1.0": torch.ones(1, 24, 8, dtype=torch.int64)}),
                 "do not fit together"),
    "another batch": (lambda header, tensors: tensors.update({f"{i}.0": torch.ones(2, 24, 8) for i in range(3)}),
                      "do not fit together"),
    "a picture of floats": (lambda header, tensors: tensors.update(picture=torch.ones(2, 2, 3)), "do not fit together"),
}


@pytest.mark.parametrize("shape", [(8, 12, 1), (8, 12), (0, 12, 4)])
def test_a_picture_of_another_shape_costs_no_features(tmp_path, shape):
    path = tmp_path / "style.safetensors"
    save(inverted(), path)
    rewritten(path, lambda header, tensors: tensors.update(picture=torch.zeros(shape, dtype=torch.uint8)))
    read = load(path)
    assert read.picture is None and read.features.blocks == inverted().features.blocks


@pytest.mark.parametrize("change", [dict(sigmas=torch.tensor([1.0, 2.0])),
                                    dict(noise=torch.full((1, 4, 4, 6), torch.nan)),
                                    dict(noise_mask=torch.full((1, 4, 6), torch.inf))])
def test_what_could_not_be_read_is_not_written(tmp_path, change):
    path = tmp_path / "style.safetensors"
    with pytest.raises(ValueError, match="do not fit together"):
        save(inverted()._replace(**change), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_contents_with_a_right_checksum(tmp_path, case):
    change, expected = HOSTILE[case]
    path = tmp_path / "style.safetensors"
    save(inverted(), path)
    rewritten(path, change)
    with pytest.raises(ValueError, match=rf"^style\.safetensors .*{expected}") as error:
        load(path)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("content", "expected"), [
    (b"", "no whole safetensors file"), (b"PK\x03\x04 a zip", "no whole safetensors file"),
    (None, "cannot be read|no whole"),
])
def test_no_such_file(tmp_path, content, expected):
    path = tmp_path / "style.safetensors"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^style.safetensors .*({expected})"):
        load(path)


def test_another_safetensors_file(tmp_path):
    save_file({"weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="model.safetensors has no features of StyleID. Save the features again."):
        load(tmp_path / "model.safetensors")


def test_sentences_end_once(tmp_path):
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError) as error:
        load(path)
    assert not re.search(r"\.\.|\. \.", str(error.value))
