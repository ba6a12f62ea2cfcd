"""Faults in the middle of transfers, in this process.

What is raised comes back, nothing of it stays, and the next transfer is the same.
"""

import logging
from collections import Counter
from contextlib import contextmanager

from .. import in_process  # noqa: F401 - before anything of ComfyUI

# isort: split
import comfy.model_management
import comfy.utils
import torch
from hypothesis import strategies as st

from ..pack import load_pack
from . import transfers
from .faults import ERRORS, PLACES, Fault, Trigger, called_layers
from .residue import Bench
from .transfers import TRANSFERS, Transfer, digest

# How far the same transfer in one node and in five may differ, by feature_dtype.
CLOSE = {"auto": 2e-3, "fp16": 2e-2, "bf16": 2e-2, "int8": 2e-2}


class FaultPart:
    """`check` tries faults in one transfer with `pack`, the nodes as `tools.pack.load_pack` gives them; `ended` counts
    how each kind of try ended.
    """

    def __init__(self, pack):
        self.pack, self.ended = pack, Counter()
        self.prepare()
        faults = st.builds(Fault, st.sampled_from(list(ERRORS)), st.sampled_from(list(PLACES)),
                           st.sampled_from(self.layers), st.floats(0, 1))
        self.strategies = {"transfer": TRANSFERS, "faults": st.lists(faults, min_size=3, max_size=8)}

    def prepare(self):
        """A new model, warmed up with all that the transfers will use."""
        self.bench = Bench()
        for device in ("cpu", "recompute"):
            settings = dict(steps=2, gamma=0.5, temperature=1.5, color_strength=1.0, blocks="0-3", schedule="ddim",
                            denoise=1.0, refine=0, inject_into="both", feature_dtype="auto", feature_device=device)
            for in_one_node in (True, False):
                self.run(Transfer(settings, in_one_node=in_one_node, lora=True, masked=True, cfg=3.0))
        with torch.inference_mode():
            self.layers = called_layers(self.bench.model, self.bench.draw)
            self.bench.settle()

    def run(self, transfer: Transfer, fault: Fault | None = None, trigger: Trigger | None = None) -> torch.Tensor:
        with torch.inference_mode():
            if fault is None:
                return transfers.run(self.pack, self.bench.model, transfer)
            with PLACES[fault.place](self.bench.model, trigger, fault.layer) as model:
                return transfers.run(self.pack, model, transfer)

    def check(self, transfer: Transfer, faults: list[Fault]):
        """AssertionError tells what is wrong."""
        try:
            self.compare_nodes(transfer)
            reference = digest(self.run(transfer))
            for fault in faults:
                self.inject(transfer, fault, reference)
                with torch.inference_mode():
                    left = self.bench.residue()
                assert not left, left
                assert digest(self.run(transfer)) == reference, "the next transfer is another"
                self.ended[f"{fault.error} at {fault.place}", "right"] += 1
        except AssertionError:
            self.prepare()  # the next try is not to blame for what this one left
            raise

    def compare_nodes(self, transfer: Transfer):
        """A transfer is finite, and the same in one node and in five; without guidance, of which one node does less."""
        one, five = (self.run(transfer._replace(in_one_node=in_one_node, cfg=1.0)) for in_one_node in (True, False))
        assert one.isfinite().all() and five.isfinite().all(), "a result with NaN"
        assert one.shape == five.shape
        difference = ((one - five).norm() / one.norm()).item()
        assert difference < CLOSE[transfer.settings["feature_dtype"]], f"one node and five differ by {difference:.2g}"
        self.ended["one node beside five", "right"] += 1

    def inject(self, transfer: Transfer, fault: Fault, reference: str):
        """The fault comes back; where nothing happens at its place, the result is `reference`."""
        counted = Trigger()
        assert digest(self.run(transfer, fault, counted)) == reference, f"{fault.place} is no bystander"
        raises, expected = ERRORS[fault.error]
        trigger = Trigger(raises, at=1 + round(fault.when * (counted.count - 1)))
        try:
            result = self.run(transfer, fault, trigger)
        except expected:
            return
        except Exception as error:
            raise AssertionError(f"another error came back: {error!r}") from error
        finally:
            comfy.model_management.interrupt_current_processing(False)
        assert digest(result) == reference, "the fault changed the result"
        assert not counted.count, "the fault was swallowed"


@contextmanager
def open_part():
    torch.set_num_threads(1)  # such small tensors are slower with more
    logging.disable(logging.WARNING)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    yield FaultPart(load_pack())
