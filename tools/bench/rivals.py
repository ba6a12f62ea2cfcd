"""Style transfer methods to measure beside StyleID: python -m tools.bench.rivals {adain,magenta,content,style}
--content DIR ...
"""

import argparse
from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy
import onnxruntime
import torch
from PIL import Image, ImageOps
from torch import nn
from tqdm import tqdm

from styleid_core.adain import adain
from styleid_core.metrics.networks import RELU4_1, VGG19_NORMALIZED, normalized_vgg19
from styleid_core.metrics.pairs import pictures_in

from ..host import WORK

Picture = Image.Image
Stylize = Callable[[Picture, Picture], Picture]  # (content, style) to stylized, all RGB and of one size
LANCZOS = Image.Resampling.LANCZOS


def load_adain(weights: Path) -> Stylize:
    """AdaIN (Huang & Belongie 2017, arXiv 1703.06868), section 5 with alpha = 1."""
    encoder = normalized_vgg19(torch.load(weights / VGG19_NORMALIZED, weights_only=True), RELU4_1)
    decoder = adain_decoder()
    decoder.load_state_dict(torch.load(weights / "decoder.pth", weights_only=True))

    @torch.inference_mode()
    def stylize(content: Picture, style: Picture) -> Picture:
        f_c, f_s = (encoder(torch.from_numpy(to_array(picture)).permute(0, 3, 1, 2)) for picture in (content, style))
        return to_picture(decoder(adain(f_c, f_s)).permute(0, 2, 3, 1).numpy())

    return stylize


def adain_decoder() -> nn.Sequential:
    """The encoder, (1, 3, H, W) to (1, 512, H / 8, W / 8), mirrored: (1, 512, H, W) to (1, 3, 8 H, 8 W), about 0..1."""
    return nn.Sequential(*convolutions(512, 256), nn.Upsample(scale_factor=2),
                         *convolutions(256, 256, 256, 256, 128), nn.Upsample(scale_factor=2),
                         *convolutions(128, 128, 64), nn.Upsample(scale_factor=2),
                         *convolutions(64, 64, 3)[:-1])


def convolutions(*channels: int) -> list[nn.Module]:
    """3x3 convolutions with reflected borders, each with a ReLU, from one number of channels to the next."""
    return [layer for n_in, n_out in pairwise(channels)
            for layer in (nn.ReflectionPad2d(1), nn.Conv2d(n_in, n_out, 3), nn.ReLU())]


def load_magenta(weights: Path) -> Stylize:
    """Magenta's arbitrary image stylization (Ghiasi et al. 2017, arXiv 1705.06830), its small MobileNet version.

    One network predicts 100 numbers from the style at 256 x 256, the other stylizes the content at 384 x 384; both
    sizes are fixed.
    """
    options = onnxruntime.SessionOptions()
    # In float: 8-bit sums overflow on processors without VNNI.
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    predict, transform = (onnxruntime.InferenceSession(weights / f"arbitrary_{name}.onnx", options,
                                                       ["CPUExecutionProvider"])
                          for name in ("predict", "transform"))
    [style_input], [content_input, bottleneck_input] = predict.get_inputs(), transform.get_inputs()

    def stylize(content: Picture, style: Picture) -> Picture:
        [bottleneck] = predict.run(None, {style_input.name: to_array(style.resize((256, 256), LANCZOS))})
        [stylized] = transform.run(None, {content_input.name: to_array(content.resize((384, 384), LANCZOS)),
                                          bottleneck_input.name: bottleneck})
        return to_picture(stylized).resize(content.size, LANCZOS)

    return stylize


METHODS: dict[str, Callable[[Path], Stylize]] = {
    "adain": load_adain,
    "magenta": load_magenta,
    "content": lambda weights: lambda content, style: content,
    "style": lambda weights: lambda content, style: style,
}


def to_array(picture: Picture) -> numpy.ndarray:
    """float32 (1, H, W, 3) in 0..1."""
    return numpy.asarray(picture, dtype=numpy.float32)[None] / 255


def to_picture(array: numpy.ndarray) -> Picture:
    """The reverse of `to_array`, values beyond 0..1 clipped."""
    return Image.fromarray((array[0] * 255).round().clip(0, 255).astype(numpy.uint8))


def load_squares(folder: Path, side: int) -> dict[str, Picture]:
    """The center square of every picture in `folder`, resized to `side`, by the file's stem."""
    return {stem: ImageOps.fit(ImageOps.exif_transpose(Image.open(path)).convert("RGB"), (side, side), LANCZOS)
            for stem, path in pictures_in(folder).items()}


def stylize_pairs(stylize: Stylize, contents: dict[str, Picture], styles: dict[str, Picture], out: Path):
    """Write every pair as <content>_stylized_<style>.png to `out`, but those already there."""
    for content, style in tqdm(list(product(contents, styles)), "Stylizing"):
        path = out / f"{content}_stylized_{style}.png"
        if not path.exists():
            partial = path.with_suffix(".part")
            stylize(contents[content], styles[style]).save(partial, format="PNG")
            partial.replace(path)


def main():
    parser = argparse.ArgumentParser(prog="python -m tools.bench.rivals", description=__doc__)
    parser.add_argument("method", choices=METHODS, help="content and style leave that picture unchanged")
    parser.add_argument("--content", type=Path, required=True, metavar="DIR")
    parser.add_argument("--style", type=Path, required=True, metavar="DIR")
    parser.add_argument("--weights", type=Path, default=WORK / "weights", metavar="DIR",
                        help="as tools.bench.registry_weights writes it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--side", type=int, default=256, help="width and height in pixels, a multiple of 8")
    options = parser.parse_args()
    if options.side < 8 or options.side % 8:
        parser.error(f"--side {options.side}: give a multiple of 8.")
    options.out.mkdir(parents=True, exist_ok=True)
    contents, styles = (load_squares(folder, options.side) for folder in (options.content, options.style))
    stylize_pairs(METHODS[options.method](options.weights), contents, styles, options.out)


if __name__ == "__main__":
    main()
