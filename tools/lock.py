"""Pin what dev.py installs, so that a clone works in a year as it does today: python -m tools.lock"""

import tempfile
from pathlib import Path

from .host import LOCK, NEWEST, RELEASES, TORCH, WORK, download_comfyui, locked, prepare, run, say, test_requirements

OLDEST_PYTHON = "3.10"
HEAD = ("# Every package that dev.py installs, for all Pythons from 3.10 on and all systems. Renew it with: "
        "python -m tools.lock")


def wanted(folders: dict[str, Path]) -> list[str]:
    """All that is asked for, of the newest ComfyUI with the versions that it pins itself."""
    asked = [*TORCH, "uv", *test_requirements()]
    for version, folder in folders.items():
        lines = (folder / "requirements.txt").read_text().splitlines()
        asked += [line for line in lines if line and not line.startswith("#")
                  and (version == NEWEST or "==" not in line)]
    return asked


def main():
    host = prepare()
    with locked() as lock:
        folders = {version: download_comfyui(version, host.python, lock) for version in RELEASES}
    with tempfile.TemporaryDirectory(dir=WORK) as folder:
        asked, pinned = Path(folder, "asked.in"), Path(folder, "pinned.txt")
        asked.write_text("\n".join(wanted(folders)))
        run([host.python, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON,
             "--no-annotate", "--no-header", "--output-file", pinned, asked], "The versions could not be worked out:")
        LOCK.write_text(f"{HEAD}\n{pinned.read_text()}", encoding="utf-8")
    say(f"Pinned {len(LOCK.read_text().splitlines()) - 1} lines in {LOCK}. Now run python dev.py test.")


if __name__ == "__main__":
    main()
