"""What an injected sampling has reached, step by step."""

import threading
from typing import NamedTuple

from ...styleid_core.blocks import Block, listed
from . import checks, logger


class Step(NamedTuple):
    """Sums up all model calls at one sigma; `above` names the attentions of other nodes that were on top of ours."""
    expected: set[Block]
    reached: set[Block]
    above: set[str]

    @property
    def missed(self) -> set[Block]:
        return self.expected - self.reached


class Tally:
    """Owned by one sampling run, and told of each of its model calls by any thread."""

    def __init__(self):
        self.lock = threading.Lock()
        self.steps: dict[float, Step] = {}

    def add(self, sigma: float, expected: set[Block], reached: set[Block], above: str | None):
        """Adds one model call; `above` names the attention of another node that is on top of ours, if any."""
        with self.lock:
            step = self.steps.setdefault(sigma, Step(set(), set(), set()))
            step.expected.update(expected)
            step.reached.update(reached)
            if above is not None:
                step.above.add(above)

    def check(self, at_work: float | None = None):
        """ValueError for a step that missed blocks under another node's attention, except for the sigma `at_work`."""
        with self.lock:
            for sigma, step in self.steps.items():
                if sigma != at_work and step.missed and step.above:
                    reached = step.reached & step.expected
                    checks.refuse_overridden(sigma, len(reached), len(step.expected), sorted(step.above))

    @property
    def blocks(self) -> set[Block]:
        return {block for step in self.steps.values() for block in step.reached}

    def tell(self, styles: int):
        partly = [sigma for sigma, step in self.steps.items() if step.missed]
        what = "style" if styles == 1 else f"{styles} styles"
        logger.info("Injected %s into %d self-attentions (%s) at %d steps.", what, len(self.blocks),
                    listed(self.blocks), len(self.steps))
        if partly:
            logger.warning("At %d of these steps another node left out some of them, as caches of blocks do.",
                           len(partly))
