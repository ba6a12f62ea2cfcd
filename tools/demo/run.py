"""Queue the simple example on a ComfyUI of its own and put content, style and result side by side. Called by dev.py
demo.
"""

import argparse
import asyncio
import sys
import time
from pathlib import Path

import aiohttp
from PIL import Image, ImageOps

from styleid_core.metrics.pairs import UNREADABLE

from ..client import RefusedError, object_info, run_prompt, saved_picture
from ..host import ROOT, HostError, end_as_by_ctrl_c, running_host, say
from ..server import serve
from ..workflow import find, load_prompt, use_demo_model, use_pictures

OUTPUT = ROOT / "output"
DEMO_MEGAPIXELS = 0.14  # 384 x 384: the built-in model is small, but there may be no GPU
WIDTH = 50  # of the progress bar
WIDEST = 3  # times the height, for a part of the side-by-side


def first_frame(path: Path) -> Image.Image:
    """RGB of a picture, or of the first one of an animation; HostError for any other file."""
    try:
        with Image.open(path) as picture:
            if getattr(picture, "is_animated", False):
                say(f"{path.name} has {picture.n_frames} frames: the first is taken.")
            picture = ImageOps.exif_transpose(picture)
            if picture.mode.startswith("I"):  # 16 bits, of which convert would keep the lowest
                picture = picture.point(lambda value: value / 256)
            return picture.convert("RGB")
    except UNREADABLE as error:
        raise HostError(f"{path} cannot be read as a picture: {error}") from error


def save(pictures: dict[str, Image.Image], folder: Path):
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in pictures.items():
            picture.save(folder / f"{name}.png")
    except OSError as error:
        raise HostError(f"Pictures cannot be written to the folder {folder}: {error.strerror or error}.") from error


async def make_prompt(url: str, checkpoint: Path | None) -> dict:
    """The pictures are content.png and style.png in ComfyUI's input folder."""
    prompt = load_prompt(ROOT / "example_workflows" / "styleid_simple.json", await object_info(url))
    use_pictures(prompt, ("content.png", "style.png"), None if checkpoint else DEMO_MEGAPIXELS)
    if checkpoint:
        [loader] = find(prompt, "CheckpointLoaderSimple")
        loader["ckpt_name"] = checkpoint.name
        return prompt
    return use_demo_model(prompt)


class Bar:
    """Progress as one line that only grows, so that it is one line in a log file too."""
    drawn = None

    def show(self, value: int, maximum: int):
        if self.drawn is None:
            print("[styleid] ", end="")
            self.drawn = 0
        width = WIDTH * value // maximum
        print("#" * (width - self.drawn), end="" if value < maximum else f" {maximum} steps\n", flush=True)
        self.drawn = width


def fitted(picture: Image.Image, height: int) -> Image.Image:
    """Of that height; less where the picture would be too wide."""
    scale = min(height / picture.height, WIDEST * height / picture.width)
    return picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.LANCZOS)


def side_by_side(pictures: list[Image.Image], height: int) -> Image.Image:
    scaled = [fitted(picture, height) for picture in pictures]
    gap = 8
    strip = Image.new("RGB", (sum(p.width for p in scaled) + gap * (len(scaled) - 1), height), "white")
    x = 0
    for picture in scaled:
        strip.paste(picture, (x, (height - picture.height) // 2))
        x += picture.width + gap
    return strip


async def stylize(url: str, checkpoint: Path | None) -> Image.Image:
    run = await run_prompt(url, await make_prompt(url, checkpoint), Bar().show)
    if run.status != "success":
        raise HostError(run.messages.get("execution_error", {}).get("exception_message", run.status))
    return await saved_picture(url, run)


def demo(options):
    pictures = {"content": first_frame(options.content), "style": first_frame(options.style)}
    for folder in (OUTPUT, options.base / "input"):
        save(pictures, folder)
    with serve(running_host(), options.base, options.port, options.checkpoint) as server:
        start = time.time()
        say(f"Stylizing {options.content.name} after {options.style.name}")
        result = asyncio.run(stylize(server.url, options.checkpoint))
    save({"result": result, "side_by_side": side_by_side([*pictures.values(), result], height=512)}, OUTPUT)
    say(f"Done in {time.time() - start:.0f} s: {OUTPUT / 'side_by_side.png'}")


def main(arguments: list[str] | None = None) -> int:
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser()
    parser.add_argument("--base", type=Path, required=True, help="ComfyUI's base folder")
    parser.add_argument("--content", type=Path, required=True)
    parser.add_argument("--style", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--port", type=int)
    try:
        demo(parser.parse_args(arguments))
        return 0
    except (HostError, RefusedError, aiohttp.ClientError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
