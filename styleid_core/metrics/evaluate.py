"""All metrics over many pairs, in batches; what was measured is kept, so that a broken run goes on."""

import math
import os
import sys
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from tqdm import tqdm

from .cfsd import cfsd
from .histogram import hellinger, rgb_uv_histogram
from .networks import Network, frechet_distance, load_inception, load_lpips, load_vgg19
from .pairs import UNREADABLE, Pair, read
from .torch_file import load

METRICS = {"cfsd": load_vgg19, "lpips": load_lpips, "fid": load_inception, "histogram": None}
CHUNK = 8  # pairs that are measured between two savings


class Report(NamedTuple):
    """networks {metric: name}, scores {score: (mean, standard error or None)}, per_pair [{content, style, stylized,
    score: value}], skipped [(file, reason)].
    """
    networks: dict[str, str]
    scores: dict[str, tuple[float, float | None]]
    per_pair: list[dict]
    skipped: list[tuple[str, str]]


def evaluate(pairs: list[Pair], metrics: list[str], weights: Path | None, device: torch.device,
             kept: Path | None = None) -> Report:
    """Measure `pairs`. MissingError before anything is measured, where weights or a package are missing.

    `kept` is a file for what was measured so far, removed at the end. Pictures that cannot be read are left out and
    named.
    """
    networks = {name: METRICS[name](weights, device) for name in metrics if METRICS[name]}
    names = {name: network.name for name, network in networks.items()}
    smallest = max((network.smallest for network in networks.values()), default=1)
    measured_with = [sorted(metrics), names]
    known = rows_in(kept, measured_with) if kept and kept.exists() else {}
    styles, skipped = {}, []
    todo = [pair for pair in pairs if fingerprint(pair) not in known]
    bar = tqdm(total=len(pairs), initial=len(pairs) - len(todo), desc="Measuring", unit="pair")
    with torch.inference_mode(), bar:
        for start in range(0, len(todo), CHUNK):
            chunk = todo[start:start + CHUNK]
            opened = [pictures for pair in chunk if (pictures := open_pair(pair, smallest, skipped))]
            for _, same in groupby(opened, lambda pictures: pictures[1].shape):
                known |= measure(list(same), metrics, networks, styles, device)
            if kept:
                save({"measured with": measured_with, "rows": known}, kept)
            bar.update(len(chunk))
    rows = [known[key] for pair in pairs if (key := fingerprint(pair)) in known]
    told = [{name: value for name, value in row.items() if name != "features"} for row in rows]
    report = Report(names, summarise(rows), told, skipped)
    if kept:
        kept.unlink(missing_ok=True)
    return report


def fingerprint(pair: Pair) -> str:
    """Changes when one of the files does."""
    return "|".join(f"{path}:{path.stat().st_mtime_ns if os.path.exists(path) else 0}" for path in pair)


def rows_in(kept: Path, measured_with: list) -> dict[str, dict]:
    """What `save` has put there; nothing where it was measured with other networks, or the file is broken."""
    try:
        state = load(kept)
        return state["rows"] if state["measured with"] == measured_with else {}
    except (ValueError, KeyError):
        tqdm.write(f"{kept} is broken: measuring everything again.", file=sys.stderr)
        return {}


def save(state: dict, path: Path):
    torch.save(state, path.with_suffix(".saving"))
    path.with_suffix(".saving").replace(path)


def open_pair(pair: Pair, smallest: int, skipped: list) -> tuple | None:
    """(pair, stylized, content, style), all of the stylized picture's size; None, and a line in `skipped`, for a broken
    or small file.
    """
    try:
        path = pair.stylized
        stylized = read(path)
        height, width = stylized.shape[1:]
        if min(height, width) < smallest:
            raise ValueError(f"it has {width} x {height} pixels, and these metrics need {smallest} to each side")
        path = pair.content
        content = read(path, stylized)
        path = pair.style
        return pair, stylized, content, read(path, stylized)
    except UNREADABLE as error:
        skipped.append((path.name, str(error).replace(str(path), path.name)))
        return None


def measure(opened: list[tuple], metrics: list[str], networks: dict[str, Network], styles: dict,
            device: torch.device) -> dict[str, dict]:
    """Rows of scores by fingerprint, of pairs of one size. `styles` keeps the styles' features for the next call."""
    stylized, content, style = (torch.stack([pictures[i] for pictures in opened]).to(device) for i in (1, 2, 3))
    rows = [{"content": pair.content.name, "style": pair.style.name, "stylized": pair.stylized.name}
            for pair, *_ in opened]
    if "lpips" in metrics:
        for row, distance in zip(rows, networks["lpips"].call(content, stylized).tolist()):
            row["lpips"] = distance
    if "cfsd" in metrics:
        for row, a, b in zip(rows, content, stylized):
            divergence = cfsd(a, b, networks["cfsd"].call)
            row |= {"cfsd": divergence.mean, "cfsd_sum": divergence.sum}
    if "histogram" in metrics:
        for row, a, b in zip(rows, style, stylized):
            row["histogram"] = hellinger(rgb_uv_histogram(a), rgb_uv_histogram(b))
    if "fid" in metrics:
        features = networks["fid"].call(stylized).cpu()
        for (pair, *_), row, own, picture in zip(opened, rows, features, style):
            key = pair.style, picture.shape
            if key not in styles:
                styles[key] = networks["fid"].call(picture[None]).cpu()[0]
            row["features"] = torch.stack([own, styles[key]])
    for row in rows:
        for value in row.values():
            if not isinstance(value, str):
                check_finite(value, row["stylized"])
    return {fingerprint(pair): row for (pair, *_), row in zip(opened, rows)}


def check_finite(value: float | torch.Tensor, picture: str):
    """ValueError for what a network makes of `picture` when bits of its weights are flipped."""
    if not torch.as_tensor(value).isfinite().all():
        raise ValueError(f"A network gives NaN for {picture}, so its file of weights is damaged. Download it again.")


def summarise(rows: list[dict]) -> dict[str, tuple[float, float | None]]:
    """Mean and standard error of each score over the pairs; FID and ArtFID of all of them.

    As in the paper's protocol a style counts once for each of its pairs.
    """
    scores = {}
    for name in ("cfsd", "cfsd_sum", "lpips", "histogram"):
        values = torch.tensor([row[name] for row in rows if name in row], dtype=torch.float64)
        if len(values):
            error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else None
            scores[name] = values.mean().item(), error
    features = [row["features"] for row in rows if "features" in row]
    if len(features) > 1:
        stylized, style = torch.stack(features, 1)
        scores["fid"] = frechet_distance(stylized, style), None
        if "lpips" in scores:
            scores["artfid"] = (1 + scores["lpips"][0]) * (1 + scores["fid"][0]), None
    return scores
