"""Let Hypothesis draw faults and prompts until the time is over, then print how every try ended. Called by dev.py
campaign.
"""

import argparse
import importlib
import random
import sys
import time
import traceback
from collections import Counter
from itertools import count

import hypothesis
from tqdm import tqdm

from ..host import end_as_by_ctrl_c

PARTS = {"faults": "fault_part", "server": "server_part"}
MINUTES = 5.0
SETTINGS = hypothesis.settings(max_examples=50, deadline=None, database=None, report_multiple_bugs=False,
                               suppress_health_check=list(hypothesis.HealthCheck))


def run_part(name: str, seed: int, seconds: float) -> Counter:
    """How often each kind of try ended how, of those that are begun within `seconds`.

    A failure is made as small as Hypothesis can, printed, and ends the part.
    """
    end = time.monotonic() + seconds
    module = importlib.import_module(f".{PARTS[name]}", __package__)  # a part brings imports of its own
    with module.open_part() as part, tqdm(desc=name, unit=" tries") as bar:
        def attempt(**drawn):
            if time.monotonic() < end:
                bar.update()
                part.check(**drawn)

        for batch in count():
            test = hypothesis.given(**part.strategies)(attempt)
            try:
                hypothesis.seed(f"{seed} {batch}")(SETTINGS(test))()
            except Exception:  # noqa: BLE001 - whatever comes is the failure that we look for
                traceback.print_exc()
                part.ended["see above", "FAILED"] += 1
                break
            if time.monotonic() >= end:
                break
    return part.ended


def table(ended: dict[str, Counter]) -> str:
    """Markdown of the counts of every part."""
    rows = [f"| {name} | {tried} | {how} | {number} |" for name, counts in ended.items()
            for (tried, how), number in sorted(counts.items())]
    return "\n".join(["| part | tried | ended | times |", "|---|---|---|---:|", *rows])


def main() -> int:
    end_as_by_ctrl_c()
    parser = argparse.ArgumentParser(prog="dev.py campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all parts together (default: {MINUTES:g})")
    parser.add_argument("--seed", type=int, default=random.randrange(10 ** 6), help="default: a new one")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be repeated")
    options = parser.parse_args()
    parts = options.only or list(PARTS)
    ended = {name: run_part(name, options.seed, 60 * options.minutes / len(parts)) for name in parts}
    print(f"Seed {options.seed}, {sum(counts.total() for counts in ended.values())} tries in {options.minutes:g} "
          f"minutes.\n\n{table(ended)}")
    return int(any(how == "FAILED" for counts in ended.values() for _, how in counts))


if __name__ == "__main__":
    sys.exit(main())
