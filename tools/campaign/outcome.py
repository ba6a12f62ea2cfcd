"""How a try ended, and the table of them all."""

import re
from collections import Counter
from typing import NamedTuple

VERDICTS = {
    "right": "a result that was checked, or an injected error that came back as itself",
    "refused": "a sentence of ours or of ComfyUI's validation",
    "host": "an error that ComfyUI's own node raises without us too",
    "raw": "an error of ours that is no sentence",
    "wrong": "something left behind, NaN without an error, or another result than the reference",
    "crashed": "the process died or did not answer",
}
FAILED = ("raw", "wrong", "crashed")
SHOWN = 400  # characters of a detail


class Outcome(NamedTuple):
    """`tried` names the kind of try, `detail` says what was seen where that is not plain from the verdict."""
    tried: str
    verdict: str  # one of VERDICTS
    detail: str = ""


class Try(NamedTuple):
    part: str
    seed: int
    case: int
    outcome: Outcome

    @property
    def repeat(self) -> str:
        return f"--only {self.part} --seed {self.seed} --case {self.case}"


def table(tries: list[Try]) -> str:
    """Markdown: how often each kind of try ended how, and below it every different failure with what repeats it."""
    counts = Counter((t.part, t.outcome.tried, t.outcome.verdict) for t in tries)
    kinds = sorted({(part, tried) for part, tried, _ in counts})
    lines = [f"| part | tried | {' | '.join(VERDICTS)} |", f"|---|---|{'---:|' * len(VERDICTS)}"]
    lines += [row(part, tried, [counts[part, tried, verdict] for verdict in VERDICTS]) for part, tried in kinds]
    lines.append(row("**all**", "", [sum(t.outcome.verdict == verdict for t in tries) for verdict in VERDICTS]))
    lines += ["", *(f"- **{verdict}**: {meaning}" for verdict, meaning in VERDICTS.items())]
    groups = failures(tries)
    lines += ["", f"{sum(map(len, groups.values()))} failures of {len(groups)} kinds" if groups else "No failures."]
    for same in groups.values():
        first = same[0]
        lines.append(f"- {first.outcome.verdict}, {len(same)} times: {first.outcome.tried}: "
                     f"{shown(first.outcome.detail)} (`{first.repeat}`)")
    return "\n".join(lines)


def row(part: str, tried: str, counts: list[int]) -> str:
    return f"| {part} | {tried} | {' | '.join(str(count) if count else '' for count in counts)} |"


def failures(tries: list[Try]) -> dict[tuple, list[Try]]:
    """Failures by part, verdict and detail, of which numbers and quoted words do not count."""
    groups = {}
    for t in tries:
        if t.outcome.verdict in FAILED:
            kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|\[.*?\]", "", t.outcome.detail)[:120]
            groups.setdefault((t.part, t.outcome.verdict, t.outcome.tried.partition(",")[0], kind), []).append(t)
    return groups


def shown(detail: str) -> str:
    line = " ".join(detail.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN // 2]} [...] {line[-SHOWN // 2:]}"
