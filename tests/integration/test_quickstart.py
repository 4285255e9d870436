"""docs/quickstart.md, typed from top to bottom; `make` has installed what it installs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flower"), pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
SWAPS = {
    "make demo": "fedpeft run --recipe recipes/demo.toml --nodes 10",  # what make runs
    ". .venv/bin/activate": ":",
}


def typed() -> str:
    """Write what the page says to type as one script."""
    page = (ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8")
    for old, new in SWAPS.items():
        assert old in page, f"the page no longer says {old!r}"
        page = page.replace(old, new)
    blocks = re.findall(r"```(bash|python)\n(.*?)```", page, re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "bash", "bash", "python", "bash"]
    as_shell = {"bash": "{}", "python": "python - <<'END'\n{}END\n"}
    return "\n".join(as_shell[kind].format(text) for kind, text in blocks)


def test_what_the_quickstart_says_works_as_printed(tmp_path: Path) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    programs = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", typed()],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "\ncrude\n" in done.stdout  # stock PEFT's answer; `fedpeft predict` has more on its line
    assert "report.html" in done.stdout
    assert (tmp_path / "my-adapter" / "adapter_model.safetensors").is_file()
