"""The documentation site: built strictly, complete, and nothing of it from another host."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NO_NETWORK = "http://127.0.0.1:9"  # a proxy that is not there
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
KEPT_LINKS = {"canonical", "next", "prev"}  # of <link>: they name pages and load nothing


class Loads(HTMLParser):
    """Collects what a browser would load for a page, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in LOADED:
            self.addresses.append(given.get(LOADED[tag]) or "")
        elif tag == "link" and given.get("rel") not in KEPT_LINKS:
            self.addresses.append(given.get("href") or "")
        elif tag == "a":
            self.links.append(given.get("href") or "")


def build(folder: Path, source: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout; without a network, as far as proxies go."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=source,
        env={
            **os.environ,
            "NO_MKDOCS_2_WARNING": "1",
            "http_proxy": NO_NETWORK,
            "https_proxy": NO_NETWORK,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(folder)
    assert built.returncode == 0, built.stderr[-4000:]
    assert "WARNING" not in built.stderr, built.stderr[-4000:]
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@pytest.mark.xdist_group("site")
def test_pages_load_nothing_from_another_host(site: Path) -> None:
    foreign = [
        (page.name, address)
        for page in pages(site)
        for address in Loads(page).addresses
        if re.match(r"(\w+:)?//", address)
    ]
    assert len(pages(site)) > 40
    assert foreign == []


@pytest.mark.xdist_group("site")
def test_styles_load_nothing_from_another_host(site: Path) -> None:
    styles = [*site.rglob("*.css")]
    texts = [style.read_text(encoding="utf-8") for style in styles]
    texts += re.findall(r"(?s)<style>.*?</style>", (site / "index.html").read_text("utf-8"))
    asked = [
        one for text in texts for one in re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')]+)", text)
    ]
    assert styles and asked
    assert [one for one in asked if re.match(r"(https?:)?//", one)] == []


@pytest.mark.xdist_group("site")
def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    lost = []
    for page in pages(site):
        for link in Loads(page).links:
            path = link.split("#")[0].split("?")[0]
            if not path or re.match(r"\w+:", path) or page.name == "404.html":  # served anywhere
                continue
            target = page.parent / path
            if not (target / "index.html" if target.is_dir() else target).is_file():
                lost.append((str(page.relative_to(site)), link))
    assert lost == []


@pytest.mark.xdist_group("site")
def test_every_module_has_its_place_in_the_reference(site: Path) -> None:
    shown = "".join(page.read_text(encoding="utf-8") for page in (site / "api").glob("*.html"))
    package = ROOT / "fedpeft_app"
    modules = [file for file in package.rglob("*.py") if file.stem != "__init__"]
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in modules]
    assert [name for name in names if f'id="{name}"' not in shown] == []


@pytest.mark.xdist_group("site")
def test_every_paper_of_a_docstring_is_on_the_page_of_papers(site: Path) -> None:
    page = (site / "api" / "papers.html").read_text(encoding="utf-8")
    named = {
        number
        for file in (ROOT / "fedpeft_app").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, DOCUMENTED)
        for number in re.findall(r"arXiv\s+(\d{4}\.\d{5})", ast.get_docstring(node) or "")
    }
    assert len(named) > 50
    assert sorted(one for one in named if one not in page) == []


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "CHANGELOG.md"):
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[there](../README.md) `[code](../not)`\n")
    hook = ROOT / "docs" / "hooks" / "repository_files.py"
    (tmp_path / "mkdocs.yml").write_text(f"site_name: a\nhooks: ['{hook}']\n")
    assert (sound := build(tmp_path / "site", tmp_path)).returncode == 0, sound.stderr
    (tmp_path / "docs" / "index.md").write_text("# A\n\n[gone](../deploy/gone.yaml)\n")
    broken = build(tmp_path / "site", tmp_path)
    assert broken.returncode != 0
    assert "docs/index.md links to 'deploy/gone.yaml': expected a file or folder" in broken.stderr
