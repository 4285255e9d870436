"""What an exported folder carries a copy of runs without fedpeft."""

import ast
import sys
from pathlib import Path

import pytest

import fedpeft_app.portable

FILES = sorted(Path(fedpeft_app.portable.__file__).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_portable_module_needs_torch_and_transformers_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - sys.stdlib_module_names <= {"torch", "transformers"}


def test_there_are_portable_modules() -> None:
    assert {"bottleneck", "visual_prompts"} <= {path.stem for path in FILES}
