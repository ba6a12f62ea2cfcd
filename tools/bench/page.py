"""Tables in Markdown."""

from collections.abc import Iterable, Iterator


def table(columns: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """Its lines, each as soon as its row is there."""
    yield f"| {' | '.join(columns)} |"
    yield "|---" + "|---:" * (len(columns) - 1) + "|"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def show(columns: list[str], rows: Iterable[list[str]]):
    for line in table(columns, rows):
        print(line, flush=True)
    print()
