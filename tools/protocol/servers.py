"""Pairs shared out to several running ComfyUIs, of which any may be lost at any time."""

import asyncio
import contextlib
import hashlib
from collections import deque
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import aiohttp
from tqdm import tqdm

from ..client import RefusedError, run_prompt, saved_file, upload
from ..host import HostError
from .graph import Inversions, make_prompt
from .method import Method, Pair, Results, Setting, sides

LOST = (aiohttp.ClientError, ConnectionError, asyncio.TimeoutError)
RETRY_SECONDS = (5, 20, 60)
PICTURE_SECONDS = 3600


class Picture(NamedTuple):
    """A file's bytes, and a name for it that depends on nothing else, so that a server keeps it once."""
    name: str
    data: bytes


def read_picture(path: Path) -> Picture:
    data = path.read_bytes()
    return Picture(hashlib.sha256(data).hexdigest()[:32] + path.suffix.lower(), data)


async def stylize(url: str, method: Method, content: Picture, style: Picture, setting: Setting,
                  inversions: Inversions | None = None) -> bytes | str:
    """The PNG that ComfyUI makes, or its own words why it made none.

    One of LOST when the server is gone, HostError when it does not take such prompts at all.
    """
    names = [await upload(url, "styleid", *picture) for picture in (content, style)]
    prompt = make_prompt(method, *names, setting)
    if inversions:
        prompt = inversions.put_into(prompt)
    try:
        run = await asyncio.wait_for(run_prompt(url, prompt), PICTURE_SECONDS)
    except RefusedError as error:
        raise HostError(f"{url}: {error}") from error
    if run.status != "success":
        return run.messages.get("execution_error", {}).get("exception_message", run.status).strip()
    if inversions:
        inversions.learn(prompt, run.outputs)
    return await saved_file(url, run)


class Queue:
    """The pairs left. What a worker takes it settles: done, or to be done by whoever comes next."""

    def __init__(self, pairs: list[Pair], side: str = "style"):
        self.waiting: dict[Path, deque[Pair]] = {}
        self.picture_of = attrgetter(side)
        self.taken = 0
        self.changed = asyncio.Condition()
        for pair in pairs:
            self.waiting.setdefault(self.picture_of(pair), deque()).append(pair)

    async def take(self, picture: Path | None) -> Pair | None:
        """A pair of a `picture` of the side, or of that with most pairs left. None when all are done, for which it
        waits: others may fail.
        """
        async with self.changed:
            await self.changed.wait_for(lambda: self.waiting or not self.taken)
            if not self.waiting:
                return None
            chosen = picture if picture in self.waiting else max(self.waiting,
                                                                 key=lambda picture: len(self.waiting[picture]))
            pair = self.waiting[chosen].popleft()
            if not self.waiting[chosen]:
                del self.waiting[chosen]
            self.taken += 1
            return pair

    async def settle(self, pair: Pair, done: bool):
        async with self.changed:
            self.taken -= 1
            if not done:
                self.waiting.setdefault(self.picture_of(pair), deque()).append(pair)
            self.changed.notify_all()

    async def pause(self, seconds: float):
        """Wait so long, or until all pairs are done."""
        async with self.changed:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.changed.wait_for(lambda: not self.waiting and not self.taken), seconds)


async def work(url: str, queue: Queue, method: Method, results: Results, inversions: Inversions | None):
    """Make pictures on one server until all pairs are done, or it was lost once more in a row than RETRY_SECONDS
    allows.
    """
    picture, losses = None, 0
    while pair := await queue.take(picture):
        try:
            pictures = [read_picture(path) for path in pair]
            for setting in results.missing(pair):
                results.keep(pair, setting, await stylize(url, method, *pictures, setting, inversions))
                losses = 0
        except LOST as error:
            await queue.settle(pair, done=False)
            if losses == len(RETRY_SECONDS):
                tqdm.write(f"[styleid] {url} is lost for good.")
                return
            tqdm.write(f"[styleid] {url} is lost ({error or type(error).__name__}), trying it again in "
                       f"{RETRY_SECONDS[losses]} s")
            await queue.pause(RETRY_SECONDS[losses])
            picture, losses = None, losses + 1
        else:
            await queue.settle(pair, done=True)
            picture = queue.picture_of(pair)


async def stylize_on_servers(urls: list[str], method: Method, results: Results, files: bool = False):
    """Make what is missing, with inversions in `files` of the servers; HostError when no server is left to do it."""
    turn, kept = sides(results.pairs)
    queue = Queue(results.left, turn)
    await asyncio.gather(*(work(url, queue, method, results, Inversions(kept) if files else None) for url in urls))
    if results.left:
        raise HostError(f"No server is left: {results.done} of {results.total} pictures are done. The same command "
                        "goes on from there.")
