"""Runs one model call in step with another, and so holds the features of one block at a time."""

import threading
from collections.abc import Callable
from contextlib import nullcontext

import torch

from ...styleid_core.blocks import Block
from ...styleid_core.features import Tokens


class ClosedError(Exception):
    """Stops the thread of a companion that was closed."""


class Companion:
    """Passes features from `make_call(self)`, which writes `companion[block] = value`, to who reads `companion[block]`:
    once for each block, in the order of the model.

    The call has a thread of its own, which works only while the reader waits: the two never work at once. It is a
    thread because a call of the model cannot be left in the middle in another way.
    """

    def __init__(self, make_call: Callable[["Companion"], None], device: torch.device):
        self.make_call, self.device = make_call, device
        self.inference = torch.is_inference_mode_enabled()
        self.stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self.asked, self.given = threading.Semaphore(0), threading.Semaphore(0)
        self.block, self.value, self.error, self.closed = None, None, None, False
        self.thread = threading.Thread(target=self.work, name="styleid", daemon=True)  # started when it is first asked

    def __getitem__(self, block: Block) -> torch.Tensor | Tokens:
        if self.thread.ident is None:
            self.thread.start()
        while self.block != block:
            self.asked.release()
            self.given.acquire()
            if self.error:
                raise self.error
        value, self.value = self.value, None  # only the reader holds it
        return value

    def __setitem__(self, block: Block, value: torch.Tensor | Tokens):
        self.block, self.value = block, value
        self.given.release()
        self.wait_until_asked()

    def wait_until_asked(self):
        self.asked.acquire()
        if self.closed:
            raise ClosedError

    def work(self):
        try:
            self.wait_until_asked()
            # Without CUDA even a context for no stream asks for a device that other machines do not have.
            stream = torch.cuda.stream(self.stream) if self.stream else nullcontext()
            with torch.inference_mode(self.inference), stream:
                self.make_call(self)
            self.error = ValueError("The features are recomputed, and a call of the model reached fewer blocks than in "
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
