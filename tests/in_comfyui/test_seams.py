"""What a further family takes: one file (middle_family.py) and one line."""

import importlib

import pytest
import torch
from cases import invert_both

from tools.demo.transfer import sample_custom
from tools.pack import stylize


@pytest.fixture
def middle(pack_module, monkeypatch):
    families = pack_module("nodes.engine.families")
    monkeypatch.setattr(families, "FAMILIES", [importlib.import_module("middle_family"), *families.FAMILIES])


def test_a_family_is_a_file_and_a_line(pack, middle, model, case):
    (noise, content, sigmas), (_, style, _) = invert_both(pack, model, case, "official", blocks="middle 0")
    assert content.blocks == [("middle", 0, 0)]
    [m] = pack.InjectStyleKV(model=model, content_features=content, style_features=style)
    injected, plain = (sample_custom(each, case.positive, sigmas, noise)["samples"] for each in (m, model))
    assert (injected - plain).norm() > 1e-3 * plain.norm()
    one_node = stylize(pack, model=model, content=case.content, style=case.style, positive=case.positive, steps=5,
                       feature_device="recompute")
    assert torch.isfinite(one_node["samples"]).all()
    with pytest.raises(ValueError, match="There is no 6-11"):
        pack.CaptureSelfAttention(model=model, blocks="6-11")


def test_a_model_of_no_family_is_told_which_there_are(pack, middle, model):
    plain = model.clone()
    plain.model = type("NoUNet", (), {"diffusion_model": torch.nn.Linear(1, 1)})()
    plain.model.diffusion_model.middle_block = [None, None]
    with pytest.raises(ValueError, match="a UNet with self-attention in its middle or a UNet with .* or a transformer "
                                         ".*Linear"):
        pack.CaptureSelfAttention(model=plain)
