"""python -m tools.campaign: draw faults from a seed until the time is over, then print how every try ended. Called by
dev.py campaign.
"""

import argparse
import contextlib
import importlib
import json
import random
import sys
import time
from pathlib import Path

from ..host import WORK, end_as_by_ctrl_c
from .outcome import FAILED, Try, table
from .progress import Progress

PARTS = {"faults": "fault_part", "server": "server_part", "commands": "command_part"}
MINUTES = 5.0
LOG = WORK / "campaign.jsonl"  # every try: part, seed, case, what was tried, verdict, detail


def make_part(name: str, seed: int):
    """A part of the campaign: `attempt(case)` gives outcomes, `close()` ends it. Each brings imports of its own."""
    return importlib.import_module(f".{PARTS[name]}", __package__).make_part(seed)


def run_part(name: str, seed: int, cases: range, seconds: float, tries: list[Try]):
    """Add every case to `tries`, or those that are begun within `seconds`; a line of LOG for each."""
    end = time.monotonic() + seconds
    WORK.mkdir(exist_ok=True)
    progress, failures = Progress(name, end), 0
    with contextlib.closing(make_part(name, seed)) as part, LOG.open("a", encoding="utf-8") as log:
        for case in cases:
            if time.monotonic() >= end:
                break
            for outcome in part.attempt(case):
                tries.append(Try(name, seed, case, outcome))
                log.write(json.dumps([name, seed, case, *outcome]) + "\n")
                failures += outcome.verdict in FAILED
            progress.show(case + 1 - cases.start, failures)
    progress.end()


def parse_arguments():
    parser = argparse.ArgumentParser(prog="dev.py campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"for all parts together (default: {MINUTES:g})")
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be repeated")
    parser.add_argument("--case", type=int, help="only this try of the part that --only names, as a failure tells it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here too, as Markdown")
    options = parser.parse_args()
    if options.case is not None and (options.seed is None or len(options.only or ()) != 1):
        parser.error("--case needs --seed, and --only with one part")
    return options


def main() -> int:
    end_as_by_ctrl_c()
    options = parse_arguments()
    seed = random.randrange(10 ** 6) if options.seed is None else options.seed
    parts = options.only or list(PARTS)
    start, tries = time.monotonic(), []
    cases = range(10 ** 9) if options.case is None else range(options.case, options.case + 1)
    try:
        for i, name in enumerate(parts):
            left = 60 * options.minutes - (time.monotonic() - start)
            run_part(name, seed, cases, left / (len(parts) - i), tries)
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
    finally:
        text = f"Seed {seed}, {len(tries)} tries in {(time.monotonic() - start) / 60:.1f} minutes.\n\n{table(tries)}"
        print(text)
        if options.out:
            options.out.write_text(f"# Campaign\n\n{text}\n", encoding="utf-8")
    return int(any(t.outcome.verdict in FAILED for t in tries))


if __name__ == "__main__":
    sys.exit(main())
