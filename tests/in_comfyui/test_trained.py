"""What the demo's trained model can do, on pictures it never saw: tests/pictures, or the folder that STYLEID_PICTURES names.

Such a folder has the sub-folders content and style; all of its contents are paired with all of its styles.
"""

import os
import re
from pathlib import Path

import pytest
import torch
from cases import all_transfers
from PIL import Image

from tools.demo.draw_style import STYLES, draw
from tools.demo.measures import color_distance, fine_energy, psnr, saturation, share_left, structure_distance, texture_distance
from tools.demo.transfer import Transfer, as_image, sample_custom
from tools.miniature.unet import conditioning
from tools.pack import stylize

pytestmark = pytest.mark.slow
PICTURES = Path(__file__).resolve().parents[1] / "pictures"
OWN = os.environ.get("STYLEID_PICTURES")
SIDE = 128  # of pictures that are transferred: 36 pairs in six variants are 10,000 model calls
GAMMAS = (0.0, 0.3, 0.75, 1.0)


def opened(folder: Path, side: int = SIDE) -> torch.Tensor:
    return torch.cat([as_image(Image.open(path), side) for path in sorted(folder.iterdir()) if path.suffix in (".jpg", ".png")])


CONTENTS = Path(OWN) / "content" if OWN else PICTURES


@pytest.fixture(scope="module")
def contents():
    return opened(CONTENTS)


@pytest.fixture(scope="module")
def styles():
    return opened(Path(OWN) / "style") if OWN else torch.cat([as_image(draw(style), SIDE) for style in STYLES.values()])


@pytest.fixture(scope="module")
def transfer(pack):
    return Transfer(pack)


def chw(images: torch.Tensor) -> torch.Tensor:
    return images.movedim(-1, 1)


@pytest.fixture(scope="module")
def results(transfer, contents, styles):
    return all_transfers(transfer, contents, styles)


def test_the_autoencoder_restores_pictures(transfer, measured):
    pictures = opened(CONTENTS, 256)
    x, restored = chw(pictures), chw(transfer.decode(transfer.encode(pictures)))
    measured("autoencoder at 256 pixels: mean PSNR, dB", psnr(restored, x).mean().item(), at_least=23)
    fine = (fine_energy(restored) / fine_energy(x)).mean().item()
    measured("its power above a quarter of Nyquist's frequency, share of the pictures'", fine, at_least=0.5, at_most=1.2)


def test_inversion_and_sampling_give_the_content_back(pack, contents, measured):
    transfer = Transfer(pack, schedule="ddim")
    noise, _, sigmas = transfer.invert(contents)
    back = chw(transfer.decode(transfer.sample(noise, sigmas)))
    original = chw(transfer.decode(transfer.encode(contents)))
    measured("round trip, ddim, 50 steps: mean PSNR to the decoded original, dB", psnr(back, original).mean().item(), at_least=22)


def moved(distance, before: torch.Tensor, after: torch.Tensor, styles: torch.Tensor) -> float:
    """Mean over contents and styles of the share of the distance to the style that is left; before (B, ...), after (S, B, ...)."""
    left = [share_left(distance, before, x, style) for x, style in zip(after, styles)]
    return torch.stack(left).mean().item()


def test_colors_move_to_the_style(transfer, results, contents, styles, measured):
    spaces = (("pixels", 0, chw(contents), chw(styles)),
              ("latents", 1, transfer.encode(contents)["samples"], transfer.encode(styles)["samples"]))
    for name, i, before, target in spaces:
        left = moved(color_distance, before, results()[i], target)
        measured(f"distance of means and deviations to the style that is left, {name}", left, at_most=0.5)
        measured(f"the same without AdaIN, {name}", moved(color_distance, before, results(color_strength=0.0)[i], target), at_least=left)


def test_injection_moves_the_texture(transfer, results, contents, styles, measured):
    """From what the autoencoder makes of the content to what it makes of the style: its own blur is no texture that moved."""
    before, target = (chw(transfer.decode(transfer.encode(pictures))) for pictures in (contents, styles))
    left = {inject: moved(texture_distance, before, results(inject=inject)[0], target) for inject in (True, False)}
    measured("texture distance to the style that is left", left[True], at_most=min(1.0, 0.95 * left[False]))
    measured("the same without injection", left[False], at_least=1.0)
    for inject, words in ((True, "with"), (False, "without")):
        value = moved(texture_distance, chw(contents), results(inject=inject)[0], chw(styles))
        measured(f"the same between pictures that the autoencoder has not seen, {words} injection", value)


def test_gamma_keeps_the_structure(results, contents, measured):
    distances = []
    for gamma in GAMMAS:
        pictures = results(**({} if gamma == 0.75 else {"gamma": gamma}))[0]
        distances.append(torch.stack([structure_distance(x, chw(contents)) for x in pictures]).mean().item())
        measured(f"structure distance to the content at gamma {gamma:g}", distances[-1],
                 at_most=distances[-2] if len(distances) > 1 else float("inf"))


def test_guidance_does_not_burn_the_colors(pack, transfer, contents, styles, measured):
    """A prompt at cfg 7: the StyleID Sampler beside a stock sampler that guides from the first step."""
    prompt, empty = conditioning("photograph"), transfer.positive
    content, style = transfer.encode(contents), transfer.encode(styles[:1])
    inputs = dict(model=transfer.model, content=content, style=style, positive=prompt, negative=empty, inversion_positive=empty)
    unguided, guided = (saturation(chw(transfer.decode(stylize(pack, cfg=cfg, **inputs)))).mean().item() for cfg in (1.0, 7.0))

    noise, features, sigmas = transfer.invert(contents)
    style_noise, style_features, _ = transfer.invert(styles[:1])
    [start] = pack.LatentAdaIN(content=noise, style=style_noise)
    [m] = pack.InjectStyleKV(model=transfer.model, content_features=features, style_features=style_features)
    stock = saturation(chw(transfer.decode(sample_custom(m, prompt, sigmas, start, cfg=7.0, negative=empty)))).mean().item()
    measured("saturation at cfg 7 over that at cfg 1", guided / unguided, at_most=1.25)
    measured("the same, guided from the first step (SamplerCustom)", stock / unguided, at_least=guided / unguided)


@pytest.fixture(scope="module")
def deviations(transfer, contents, styles):
    """Mean standard deviation of attention logits: (with own keys, with the style's at temperature 1, at 1.5)."""
    with torch.inference_mode():
        content, inverted = transfer.invert(contents[::2]), [transfer.invert(style[None]) for style in styles[:3]]
        seen = [[value for style in inverted for value in transfer.logit_deviations(content, style, **options).values()]
                for options in ({"inject": False}, {"temperature": 1.0}, {"temperature": 1.5})]
    return [sum(values) / len(values) for values in seen]


def test_temperature_sharpens_the_attention(deviations, measured):
    own, foreign, sharpened = deviations
    measured("deviation of attention logits, own keys", own)
    measured("with the style's keys, temperature 1", foreign)
    measured("with the style's keys, temperature 1.5", sharpened, at_least=foreign)


@pytest.mark.skipif(OWN is not None, reason="docs/settings.md speaks of the pictures here")
def test_the_page_of_settings_says_what_was_measured(deviations):
    text = " ".join((PICTURES.parents[1] / "docs" / "settings.md").read_text(encoding="utf-8").split())
    [told] = re.findall(r"(\d\.\d\d) with its own keys, (\d\.\d\d) with the style's, (\d\.\d\d) at temperature 1\.5", text)
    assert [float(value) for value in told] == pytest.approx(deviations, abs=0.02)


@pytest.mark.xfail(reason="this small model's queries fit foreign keys as well as its own, so there is nothing to restore", strict=True)
def test_foreign_keys_flatten_the_attention_and_temperature_restores_it(deviations):
    own, foreign, sharpened = deviations
    assert foreign < own
    assert abs(sharpened - own) < own - foreign
