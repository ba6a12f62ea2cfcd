import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("folder", ["styleid_core", pytest.param("styleid_core/metrics", marks=pytest.mark.full)])
def test_the_core_imports_nothing_of_the_host(folder):
    if folder.endswith("metrics"):
        pytest.importorskip("torchvision")
    modules = [f"{folder.replace('/', '.')}.{path.stem}" for path in (ROOT / folder).glob("*.py")
               if path.name != "__main__.py"]
    code = (f"import sys, {', '.join(modules)}; "
            "sys.exit(' '.join(m for m in sys.modules if m.split('.')[0].startswith('comfy')) or 0)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
