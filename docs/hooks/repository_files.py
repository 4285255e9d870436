"""Files of the repository that pages link to become pages of the site.

Pages link by relative paths, as they lie in a checkout, so that links work wherever the code is
shown. Of what lies outside of `docs/` the site gets a page of its own, `repository/PATH`: Markdown
as it is, other texts as code, pictures as files, a folder as the list of what is in it. What
these pages link to follows. The site so needs no address of the repository.
"""

import logging
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

DOCS, AROUND = "docs/", "repository/"
PICTURES = (".svg", ".png")
LANGUAGES = {"Dockerfile": "docker", ".conf": "nginx", ".service": "ini", ".py": "python"}
LANGUAGES |= {".toml": "toml", ".yaml": "yaml", ".json": "json", ".sh": "bash"}
# Code (left alone), or the target of a link and its anchor.
_LINK = re.compile(
    r"(?P<code>^ *```.*?^ *```|`[^`\n]+`)"
    r"|(?<=\]\()(?P<target>[^)\s#:]+)(?P<anchor>#[^)\s]*)?(?=\))",
    re.DOTALL | re.MULTILINE,
)
_log = logging.getLogger("mkdocs.hooks.repository_files")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page for everything around `docs/` that a page links to, directly or not."""
    root = Path(config.config_file_path).parent
    awaited = set(config.extra.get("awaited", ()))
    asked = {
        (DOCS + page.src_uri, path)
        for page in files.documentation_pages()
        for path in _targets(page.content_string, DOCS + page.src_uri)
    }
    asked |= {("mkdocs.yml", name) for name in ("README.md", "CHANGELOG.md")}
    made: set[str] = set()
    while asked:
        source, path = asked.pop()
        if path.startswith(DOCS) or path in made:
            continue
        made.add(path)
        if not (root / path).exists() and path not in awaited:
            _log.warning(
                "%s links to '%s': expected a file or folder of the repository, got none. Mend "
                "the link, or name the file in mkdocs.yml (extra, awaited).",
                source,
                path,
            )
            continue
        files.append(file := _file(config, root / path, path))
        if file.is_documentation_page():
            asked |= {
                (path, found) for found in _targets(file.content_string, _lies_at(file.src_uri))
            }
    _require_awaited(root, awaited, made)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to where the site has what they lead to in a checkout."""
    lies_at = _lies_at(page.file.src_uri)

    def lead(target: str) -> str:
        path = _path(target, lies_at)
        return posixpath.relpath(_place(path, _root(config)), posixpath.dirname(page.file.src_uri))

    return _replaced(markdown, lead)


def _root(config: MkDocsConfig) -> Path:
    return Path(config.config_file_path).parent


def _targets(markdown: str, lies_at: str) -> Iterator[str]:
    """Give the paths, from the repository's root, that a text links to."""
    for match in _LINK.finditer(markdown):
        if match["target"]:
            yield _path(match["target"], lies_at)


def _replaced(markdown: str, lead: Callable[[str], str]) -> str:
    """Replace the targets of links, outside of code."""
    return _LINK.sub(
        lambda match: (
            match[0] if match["code"] else lead(match["target"]) + (match["anchor"] or "")
        ),
        markdown,
    )


def _path(target: str, lies_at: str) -> str:
    """Resolve a link of a file by where both lie in the repository."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(lies_at), target))


def _lies_at(uri: str) -> str:
    """Say where a page of the site lies in the repository (of a folder: a name in it)."""
    return uri.removeprefix(AROUND) if uri.startswith(AROUND) else DOCS + uri


def _place(path: str, root: Path) -> str:
    """Say where the site has a file of the repository."""
    if path.startswith(DOCS):
        return path.removeprefix(DOCS)
    if (root / path).is_dir() or not ((root / path).suffix or (root / path).exists()):
        return f"{AROUND}{path}/index.md"
    return AROUND + (path if path.endswith((".md", *PICTURES)) else f"{path}.md")


def _file(config: MkDocsConfig, file: Path, path: str) -> File:
    """Make what the site shows of a file or folder."""
    place = _place(path, Path(config.config_file_path).parent)
    if path.endswith(PICTURES):
        return File.generated(config, place, abs_src_path=str(file))
    if not file.exists():
        text = f"# {path}\n\nThe repository does not have it yet.\n"
    elif file.is_dir():
        text = _listing(file, path)
    else:
        text = file.read_text(encoding="utf-8")
        text = text if path.endswith(".md") else _as_code(text, path, file)
    return File.generated(config, place, content=text, inclusion=InclusionLevel.NOT_IN_NAV)


def _listing(folder: Path, path: str) -> str:
    """Write what is in a folder; of folders in it, how much."""
    lines = [f"# {path}/", ""]
    for one in sorted(folder.iterdir()):
        if one.is_dir():
            lines.append(f"- `{one.name}/`: {len(list(one.iterdir()))} files")
        elif not one.name.startswith("."):
            lines.append(f"- [{one.name}]({one.name})")
    return "\n".join((*lines, ""))


def _as_code(text: str, path: str, file: Path) -> str:
    language = LANGUAGES.get(file.suffix or file.name, "text")
    return f"# {path}\n\n````{language}\n{text.rstrip()}\n````\n"


def _require_awaited(root: Path, awaited: set[str], made: set[str]) -> None:
    """Warn of what need not be awaited any more."""
    for path in sorted(awaited):
        if (root / path).exists() or path not in made:
            _log.warning(
                "mkdocs.yml awaits '%s': expected a link to what the repository does not have, "
                "got %s. Take it from the list (extra, awaited).",
                path,
                "a file" if (root / path).exists() else "no link",
            )
        else:
            _log.info("'%s' is linked, and not there yet", path)
