"""Faults in the middle of transfers, in this process: what is raised comes back, nothing stays, the next transfer is
the same.

Everything is looked at after every single fault, so that a fault is to blame for what is found after it.
"""

import logging
import random

from .. import in_process  # noqa: F401 - before anything of ComfyUI

# isort: split
import comfy.model_management
import comfy.utils
import torch

from ..pack import load_pack
from . import transfers
from .errors import error_of, told
from .faults import ERRORS, INTERRUPT, PLACES, Fault, Trigger, called_layers
from .outcome import Outcome
from .residue import Bench

POOL, CASES = 8, 400  # so many transfers, drawn anew after so many cases
# Of the same transfer in one node and in five, by feature_dtype.
CLOSE = {"auto": 2e-3, "fp16": 2e-2, "bf16": 2e-2, "int8": 2e-2}


class FaultPart:
    """A try is a transfer with a fault. `pack` is the nodes, as `tools.pack.load_pack` gives them."""

    name = "faults"

    def __init__(self, pack, seed: int):
        self.pack, self.seed = pack, seed
        self.prepare()

    def prepare(self):
        """A new model, warmed up with all that the cases will use."""
        self.bench = Bench()
        for case in range(3):
            self.run(transfers.random_transfer(random.Random(case))._replace(lora=True))
        with torch.inference_mode():
            self.layers = called_layers(self.bench.model, self.bench.draw)
            self.bench.settle()

    def run(self, transfer: transfers.Transfer, place: str | None = None, layer: str = "",
            trigger: Trigger | None = None) -> torch.Tensor:
        with torch.inference_mode():
            if place is None:
                return transfers.run(self.pack, self.bench.model, transfer)
            with PLACES[place](self.bench.model, trigger, layer) as model:
                return transfers.run(self.pack, model, transfer)

    def attempt(self, case: int) -> list[Outcome]:
        rng = random.Random(f"{self.seed} faults {case}")
        transfer = transfers.random_transfer(random.Random(f"{self.seed} transfers {case // CASES} "
                                                           f"{rng.randrange(POOL)}"))
        place, error, layer = rng.choice(list(PLACES)), rng.choice([INTERRUPT, *ERRORS]), rng.choice(self.layers)
        outcomes = self.compare_nodes(transfer)
        reference = self.reference(transfer)
        events = self.events(transfer, "a model call" if place == "a layer" else place)
        fault = Fault(error, place, layer, rng.randint(1, max(events, 1)))
        problem = self.inject(transfer, fault, events, reference)
        with torch.inference_mode():
            problem = problem or self.bench.residue()
        if not problem and transfers.digest(self.run(transfer)) != reference:
            problem = "the next transfer is another"
        tried = f"{error} at {place}" if events else f"nothing happens at {place}"
        return [*outcomes, self.wrong(transfer, fault, problem) if problem else Outcome(tried, "right")]

    def reference(self, transfer) -> str:
        known = self.bench.references
        if str(transfer) not in known:
            known[str(transfer)] = transfers.digest(self.run(transfer))
        return known[str(transfer)]

    def events(self, transfer, place: str) -> int:
        """How often something happens at `place`; AssertionError where only counting changes the result."""
        known, key = self.bench.references, (str(transfer), place)
        if key not in known:
            counted = Trigger()
            assert transfers.digest(self.run(transfer, place, "",
                                             counted)) == self.reference(transfer), f"{place} is no bystander"
            known[key] = counted.count
        return known[key]

    def compare_nodes(self, transfer) -> list[Outcome]:
        """A new transfer is finite and the same in one node and in five; with guidance the one node leaves some of it
        out.
        """
        if str(transfer) in self.bench.references:
            return []
        tried = "one node beside five"
        one, five = (self.run(transfer._replace(nodes=nodes, cfg=1.0)) for nodes in ("one", "five"))
        if not (one.isfinite().all() and five.isfinite().all()):
            return [Outcome(tried, "wrong", f"a result with NaN: {transfer}")]
        difference = ((one - five).norm() / one.norm()).item()
        if one.shape != five.shape or difference > CLOSE[transfer.settings["feature_dtype"]]:
            return [Outcome(tried, "wrong", f"they differ by {difference:.2g}: {transfer}")]
        return [Outcome(tried, "right")]

    def inject(self, transfer, fault: Fault, events: int, reference: str) -> str:
        """What is wrong with how the transfer ended: the fault has to come back; where there are no events, the result
        is `reference`.
        """
        raises, expected = ERRORS[fault.error]
        try:
            result = self.run(transfer, fault.place, fault.layer, Trigger(raises, fault.at))
        except expected:
            return ""
        except Exception as error:  # noqa: BLE001 - whatever else comes is what we look for
            return f"another error came back: {told(error_of(error))}"
        finally:
            comfy.model_management.interrupt_current_processing(False)
        if transfers.digest(result) != reference:
            return "the fault changed the result"
        return "the fault was swallowed" if events else ""

    def wrong(self, transfer, fault: Fault, problem: str) -> Outcome:
        self.prepare()
        where = fault.layer if fault.place == "a layer" else fault.place
        told = f"{problem}; {fault.error} at event {fault.at} of {where} in {transfer}"
        return Outcome(f"{fault.error} at {fault.place}", "wrong", told)

    def close(self):
        """Nothing outlives the process."""


def make_part(seed: int) -> FaultPart:
    pack = load_pack()
    torch.set_num_threads(1)  # such small tensors are slower with more
    logging.disable(logging.WARNING)
    comfy.utils.PROGRESS_BAR_ENABLED = False
    return FaultPart(pack, seed)
