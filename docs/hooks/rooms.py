"""Pages of the site that are made of docstrings: one a room of the package, and the papers.

Sources are read, never imported: a site needs neither torch nor Flower.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "fedpeft_app"
# "Sun et al. 2022, arXiv 2210.01708", in a text whose white space is single.
_PAPER = re.compile(
    r"(?P<authors>[A-Z][^\s.,(:;]+(?:\s[^\s.,(:;]+){0,4}?(?:\set\sal\.)?)\s(?P<year>20\d\d),"
    r"\sarXiv\s(?P<number>\d{4}\.\d{5})"
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for every room, and one of all papers that docstrings name."""
    package = Path(config.config_file_path).parent / PACKAGE
    pages = {
        room.name: list(_modules(room)) for room in sorted(package.iterdir()) if _is_room(room)
    }
    pages["app"] = [file for file in sorted(package.glob("*.py")) if file.stem != "__init__"]
    for name, modules in pages.items():
        files.append(_page(config, name, _reference(name, modules, package.parent)))
    files.append(_page(config, "papers", _papers(package)))
    return files


def _page(config: MkDocsConfig, name: str, content: str) -> File:
    return File.generated(config, f"api/{name}.md", content=content)


def _is_room(folder: Path) -> bool:
    return (folder / "__init__.py").exists()


def _modules(room: Path) -> Iterator[Path]:
    """Give a room's files: the room itself, its modules, then rooms in it."""
    yield room / "__init__.py"
    yield from (file for file in sorted(room.glob("*.py")) if file.stem != "__init__")
    for inner in sorted(room.iterdir()):
        if _is_room(inner):
            yield from _modules(inner)


def _reference(name: str, modules: list[Path], root: Path) -> str:
    """Write the directives from which mkdocstrings makes a page."""
    room = f"{PACKAGE}.{name}"
    title = "The app" if name == "app" else f"`{room}`"
    lines = [f"# {title}", ""]
    for module in modules:
        path = ".".join(module.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        lines.append(f"::: {path}")
        if module.stem == "__init__":  # what it gives on stands where it is defined
            lines += ["    options:", "      members: false"]
            lines += ["      show_root_heading: false"] if path == room else []
        lines.append("")
    return "\n".join(lines)


def _papers(package: Path) -> str:
    """Write a table of the papers that docstrings name, and of who follows them."""
    found: dict[str, tuple[str, dict[str, None]]] = {}  # number → name, the modules in order
    for file in sorted(package.rglob("*.py")):
        module = ".".join(file.relative_to(package.parent).with_suffix("").parts)
        for match in _PAPER.finditer(" ".join(_docstrings(file))):
            name = f"{match['authors']} {match['year']}"
            found.setdefault(match["number"], (name, {}))[1][module.removesuffix(".__init__")] = (
                None
            )
    rows = [
        f"| {name} | [{number}](https://arxiv.org/abs/{number}) | "
        + ", ".join(f"[`{one.removeprefix(PACKAGE + '.')}`][{one}]" for one in modules)
        + " |"
        for number, (name, modules) in sorted(found.items(), key=lambda item: item[1][0])
    ]
    head = (
        "# Papers",
        "",
        "What follows which paper. The module's page has section, equation and differences.",
        "",
        "| paper | arXiv | module |",
        "|---|---|---|",
    )
    return "\n".join((*head, *rows, ""))


def _docstrings(file: Path) -> Iterator[str]:
    """Give every docstring of a file, its white space made single."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, documented) and (text := ast.get_docstring(node)):
            yield " ".join(text.split())
