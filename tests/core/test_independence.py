import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_core_imports_nothing_of_the_host():
    modules = [f"styleid_core.{path.stem}" for path in (ROOT / "styleid_core").glob("*.py")]
    code = f"import sys, {', '.join(modules)}; sys.exit(' '.join(m for m in sys.modules if m.split('.')[0].startswith('comfy')) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
