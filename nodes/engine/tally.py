"""What an injected sampling has reached, step by step."""

import threading
from typing import NamedTuple

from ...styleid_core.blocks import Block, listed
from . import checks, logger


class Step(NamedTuple):
    """Of all model calls at one sigma: the blocks to be reached, those that were, and what stood above ours."""
    expected: set[Block]
    reached: set[Block]
    above: set[str]

    @property
    def missed(self) -> set[Block]:
        return self.expected - self.reached


class Tally:
    def __init__(self):
        self.lock = threading.Lock()
        self.steps: dict[float, Step] = {}

    def add(self, sigma: float, expected: set[Block], reached: set[Block], above: str | None):
        """Of one model call; `above` names the attention that another node has put on top of ours."""
        with self.lock:
            step = self.steps.setdefault(sigma, Step(set(), set(), set()))
            step.expected.update(expected)
            step.reached.update(reached)
            if above is not None:
                step.above.add(above)

    def check(self, before: float | None = None):
        """ValueError for a step that missed blocks beneath another node's attention, but for the sigma at work."""
        with self.lock:
            for sigma, step in self.steps.items():
                if sigma != before and step.missed and step.above:
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
