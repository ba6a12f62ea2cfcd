"""The frequencies of the start against the code of StyleSSP, and what has to hold for any."""

import json

import pytest
import torch
from safetensors import safe_open

from styleid_core.frequencies import band, with_other_frequencies
from tools.host import ROOT

LIMIT = 1e-5


@pytest.fixture(scope="module")
def golden():
    with safe_open(ROOT / "tests" / "golden" / "stylessp_start.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return tensors, {name: tuple(values.values()) for name, values in json.loads(file.metadata()["params"]).items()}


@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.parametrize("parameters", ["p1", "p2"])
def test_the_published_code(golden, name, parameters):
    tensors, known = golden
    inner, outer, keep = known[parameters]
    latents = tensors[f"{name}.latent"]
    assert (band(tuple(latents.shape[1:]), inner, outer) - tensors[f"{name}.{parameters}.mask"]).abs().max() < LIMIT
    images = [f"{name}.image_{k}" for k in range(len(latents))]
    noise, expected = (torch.cat([tensors[f"{image}.{key}"] for image in images])
                       for key in ("noise", f"{parameters}.latent_l"))
    result = with_other_frequencies(latents, noise, inner, outer, keep)
    assert result.dtype == latents.dtype and (result - expected).norm() / expected.norm() < LIMIT


def test_what_is_kept_whole_does_not_change():
    z, noise = torch.randn(2, 4, 15, 21), torch.randn(2, 4, 15, 21)
    torch.testing.assert_close(with_other_frequencies(z, noise, 0.3, 0.9, 1.0), z)


def test_no_band_is_everything():
    z, noise = torch.randn(1, 4, 8, 8), torch.randn(1, 4, 8, 8)
    assert band((4, 8, 8), 0.0, 0.9).count_nonzero() == 0
    fresh = 0.5 * noise * (0.5 * (z.max() - z.min()) / (noise.max() - noise.min()))
    torch.testing.assert_close(with_other_frequencies(z, noise, 0.0, 0.9, 0.5), z + fresh)
