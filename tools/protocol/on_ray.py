"""The same pictures on a Ray cluster, by a Stylizer for each GPU, or for each node without one.

Every node needs ComfyUI, and the checkpoint, in the same place as here; this pack and the pictures are sent to it.
"""

import importlib
import logging
import os
import shutil
from collections.abc import Iterator

import ray
from ray.exceptions import RayActorError
from ray.util import ActorPool
from tqdm import tqdm

from ..host import ROOT
from .method import Picture


@ray.remote(max_restarts=-1, max_task_retries=3, scheduling_strategy="SPREAD")
class Worker:
    """A Stylizer in a process of its own, which alone loads ComfyUI."""

    def __init__(self, making: tuple):
        self.stylizer = importlib.import_module("tools.protocol.stylizer").Stylizer(*making)

    def stylize(self, picture: Picture, content: bytes, style: bytes) -> tuple[Picture, bytes | str]:
        return picture, self.stylizer.stylize(picture, content, style)

    def clear(self):
        """Remove the inversions of this node, also of workers that were killed."""
        shutil.rmtree(self.stylizer.folder.parent, ignore_errors=True)


def stylize_on_ray(address: str, making: tuple, pictures: list[Picture]) -> Iterator[tuple[Picture, bytes | str]]:
    """What Stylizers of `making` give, in any order and without pictures whose workers died again and again."""
    here = {"working_dir": str(ROOT), "excludes": ["/.dev"], "env_vars": {"COMFYUI_PATH": os.environ["COMFYUI_PATH"]}}
    ray.init(address, logging_level=logging.WARNING, runtime_env=here)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    processors = [node["Resources"]["CPU"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    share = {"num_gpus": 1} if gpus else {"num_cpus": min(processors)}
    workers = [Worker.options(**share).remote(making) for _ in range(gpus or len(processors))]
    pool = ActorPool(workers)
    for picture in pictures:
        pool.submit(lambda worker, picture: worker.stylize.remote(picture, *picture.read()), picture)
    try:
        while pool.has_next():
            try:
                yield pool.get_next_unordered()
            except RayActorError as error:
                tqdm.write(f"[styleid] A picture was lost with its workers: {error}")
    finally:
        ray.wait([worker.clear.remote() for worker in workers], num_returns=len(workers), timeout=60)
        ray.shutdown()
