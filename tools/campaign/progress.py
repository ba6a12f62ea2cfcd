"""One line that moves on a terminal; in a log file a new line now and then."""

import sys
import time

LOG_SECONDS = 30


class Progress:
    def __init__(self, name: str, end: float):
        self.name, self.until, self.start, self.shown = name, end, time.monotonic(), 0.0
        self.moves = sys.stderr.isatty()

    def show(self, count: int, failures: int):
        now = time.monotonic()
        if now - self.shown < (0.2 if self.moves else LOG_SECONDS):
            return
        self.shown = now
        left = max(self.until - now, 0)
        self.say(f"{count} cases, {count / (now - self.start):.1f} a second, {failures} failures, {left:.0f} s left")

    def say(self, text: str):
        line = f"[styleid] {self.name}: {text}"
        print(f"\r{line:<100}" if self.moves else line, end="" if self.moves else "\n", file=sys.stderr, flush=True)

    def end(self):
        if self.moves:
            print(file=sys.stderr)
