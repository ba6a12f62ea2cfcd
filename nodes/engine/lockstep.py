"""A model call beside another, block by block, so that of all that it computes only one block is there at a time."""

import threading
from collections.abc import Callable
from contextlib import nullcontext

import torch

from ...styleid_core.blocks import Block


class ClosedError(Exception):
    """Unwinds the call of a companion that is no longer asked."""


class Companion:
    """`features[block]` of `run(self)`, which writes them as `seen[block] = n`: once for each block, in the order of
    the model.

    It has a thread of its own, which works only while `features[block]` waits for it: never do two work at once.
    """

    def __init__(self, run: Callable[["Companion"], None], device: torch.device):
        self.run, self.device = run, device
        self.inference = torch.is_inference_mode_enabled()
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.asked, self.given = threading.Semaphore(0), threading.Semaphore(0)
        self.block, self.n, self.error, self.closed = None, None, None, False
        self.thread = threading.Thread(target=self.work, name="styleid", daemon=True)  # started when it is first asked

    def __getitem__(self, block: Block) -> torch.Tensor:
        if self.thread.ident is None:
            self.thread.start()
        while self.block != block:
            self.asked.release()
            self.given.acquire()
            if self.error:
                raise self.error
        n, self.n = self.n, None  # it is held where it is used
        return n

    def __setitem__(self, block: Block, n: torch.Tensor):
        self.block, self.n = block, n
        self.given.release()
        self.wait()

    def wait(self):
        self.asked.acquire()
        if self.closed:
            raise ClosedError

    def work(self):
        try:
            self.wait()
            # Without CUDA even a context for no stream asks for a device that other machines do not have.
            stream = torch.cuda.stream(self.stream) if self.stream else nullcontext()
            with torch.inference_mode(self.inference), stream:
                self.run(self)
            self.error = ValueError("The features are recomputed, and a call of the model reached less blocks than in "
                                    "the inversion. Let Capture Self-Attention keep the features (feature_device "
                                    "auto).")
        except ClosedError:
            pass
        except BaseException as error:  # noqa: BLE001  it is raised where the features are asked for
            self.error = error
        self.given.release()

    def close(self):
        self.closed = True
        self.asked.release()
        if self.thread.ident is not None:
            self.thread.join()
