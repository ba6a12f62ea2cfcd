import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_core_imports_nothing_of_the_host():
    paths = (ROOT / "styleid_core").rglob("*.py")
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths if path.name != "__main__.py"]
    code = f"import sys, {', '.join(modules)}; sys.exit(' '.join(m for m in sys.modules if m.split('.')[0].startswith('comfy')) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
