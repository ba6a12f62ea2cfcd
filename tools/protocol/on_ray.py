"""The same pictures on a Ray cluster: an actor for each GPU, or for each node, runs a ComfyUI of its own.

Every node needs ComfyUI, and the checkpoint, in the same place as here; this pack and the pictures are sent to it.
"""

import asyncio
import logging
import os
import sys
import tempfile
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path

import ray
from ray.exceptions import RayActorError
from ray.util import ActorPool
from tqdm import tqdm

from ..host import ROOT, HostError, running_host
from ..server import serve
from .graph import Inversions
from .method import Method, Pair, Results, Setting, sides
from .servers import LOST, Picture, read_picture, stylize

RETRIES = 3


@ray.remote(max_restarts=-1, max_task_retries=RETRIES, scheduling_strategy="SPREAD")
class ComfyUI:
    def __init__(self, checkpoint: Path | None, kept: str):
        self.inversions = Inversions(kept)
        self.resources = ExitStack()
        base = self.resources.enter_context(tempfile.TemporaryDirectory())
        self.url = self.resources.enter_context(serve(running_host(), Path(base), checkpoint=checkpoint)).url

    def stylize(self, method: Method, pair: Pair, content: Picture, style: Picture, settings: list[Setting]) -> tuple:
        """(pair, {setting: PNG, or why there is none})."""
        try:
            return pair, {setting: asyncio.run(stylize(self.url, method, content, style, setting, self.inversions))
                          for setting in settings}
        except LOST:
            self.stop()
            os._exit(1)  # Ray starts an actor that died again, with a new ComfyUI, and gives it this pair

    def stop(self):
        self.resources.close()


def start_actors(checkpoint: Path | None, kept: str) -> list:
    gpus = int(ray.cluster_resources().get("GPU", 0))
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    share = {"num_gpus": 1} if gpus else {"num_cpus": min(node["Resources"]["CPU"] for node in nodes)}
    return [ComfyUI.options(**share).remote(checkpoint, kept) for _ in range(gpus or len(nodes))]


def stylize_on_ray(address: str, method: Method, checkpoint: Path | None, results: Results):
    """Make what is missing on the cluster at `address`, which Ray understands ("auto", "local", ray://...)."""
    here = {"working_dir": str(ROOT), "excludes": ["/.dev"], "env_vars": {"COMFYUI_PATH": os.environ["COMFYUI_PATH"]}}
    try:
        ray.init(address, logging_level=logging.WARNING, runtime_env=here)
    except ConnectionError as error:
        raise HostError(f"{error}. Check the address, and whether this user may connect.") from error
    turn, kept = sides(results.pairs)
    actors = start_actors(checkpoint, kept)
    pool = ActorPool(actors)
    for pair in sorted(results.left, key=attrgetter(turn)):
        pool.submit(lambda actor, pair: actor.stylize.remote(method, pair, *map(read_picture, pair),
                                                             results.missing(pair)), pair)
    while pool.has_next():
        try:
            pair, outcomes = pool.get_next_unordered()
        except RayActorError as error:
            tqdm.write(f"[styleid] A pair was lost {RETRIES + 1} times: {error}", file=sys.stderr)
            continue
        for setting, outcome in outcomes.items():
            results.keep(pair, setting, outcome)
    ray.get([actor.stop.remote() for actor in actors])
    ray.shutdown()
    if results.left:
        raise HostError(f"{results.done} of {results.total} pictures are done. The same command goes on from there.")
