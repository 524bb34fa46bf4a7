"""What mkdocs cannot do by itself: files of the repository outside docs/, and the pages of the reference.

Links in docs/ lead into the repository (`../benchmarks/README.md`), as they do on any Git host. On the site such a
file stands under `repository/`, and so does every file that it links to in turn.
"""

# mkdocs is imported where it is used: the tests read this file without it.
from __future__ import annotations

import ast
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page


ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = "repository"
GALLERY = ROOT / "build/gallery/pages"  # what docs/site/gallery.py has made, if it has run
# Public names by page: of the package, and of the rooms whose `__init__` has some.
ROOMS = {"trl_rsa": "", "risk": "risk", "data": "data", "scoring": "scoring", "report": "report", "sandbox": "sandbox"}
_LINK = re.compile(r"(\]\(\s*)([^)\s#:]+)(#[^)\s]*)?(\))")
# A picture for light pages and its dark twin, as README.md writes them for GitHub.
_PICTURE = re.compile(r'<picture>\s*<source [^>]*srcset="([^"]+)">\s*<img alt="([^"]*)" src="([^"]+)">\s*</picture>')
_CODE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)


def public_names(room: str) -> dict[str, str]:
    """By public name of a room, the module that defines it. Read from the text: importing it would take seconds."""
    package = f"trl_rsa.{room}".rstrip(".")
    tree = ast.parse((ROOT / "trl_rsa" / room / "__init__.py").read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    public: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("trl_rsa"):
            found |= {alias.name: node.module for alias in node.names}
        elif isinstance(node, ast.Assign) and node.targets[0].id == "_MODULE_OF":  # names that load on first use
            found |= {name: f"{package}.{module}" for name, module in ast.literal_eval(node.value).items()}
        elif isinstance(node, ast.Assign) and node.targets[0].id == "__all__":
            public = ast.literal_eval(node.value)
    return {name: found[name] for name in public}


def reference_page(page: str) -> str:
    module = f"trl_rsa.{ROOMS[page]}".rstrip(".")
    lines = [f"# {module}", "", f"Every public name of `{module}`, from its docstring.", ""]
    for name, defined_in in public_names(ROOMS[page]).items():
        lines += [f"::: {defined_in}.{name}", ""]
    return "\n".join(lines)


def _follow_the_toggle(markdown: str) -> str:
    """A `<picture>` as two images of which the theme shows one: `<picture>` follows the reader's system alone, and the
    site has a toggle too."""
    return _PICTURE.sub(r"![\2](\3#only-light) ![\2](\1#only-dark)", markdown)


def _target(page: Path, link: str) -> Path | None:
    """The file or folder of the repository that a link in `page` means."""
    target = (page.parent / link).resolve()
    return target if target.exists() and target.is_relative_to(ROOT) else None


def linked_files() -> list[Path]:
    """Files outside docs/ that pages of the site link to, directly or by way of each other."""
    docs = ROOT / "docs"
    found: list[Path] = []
    waiting = [*docs.glob("*.md"), *(ROOT / name for name in ("benchmarks/README.md", "CONTRIBUTING.md"))]
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        if docs not in page.parents:
            found.append(page)
        if page.suffix != ".md":
            continue
        for link in _LINK.findall(_follow_the_toggle(_CODE.sub("", page.read_text(encoding="utf-8")))):
            target = _target(page, link[1])
            if target is not None and target.is_file() and target not in seen:
                seen.add(target)
                waiting.append(target)
    return found


def _gallery_links(markdown: str) -> str:
    """The names of pages that exist become links."""
    made = {f"gallery/{path.relative_to(GALLERY).as_posix()}" for path in GALLERY.glob("*/report.html")}
    return re.sub(r"`(gallery/\S+)`", lambda m: f'<a href="{m[1]}">{m[1]}</a>' if m[1] in made else m[0], markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """The pages of the gallery stand in the site as they are."""
    if GALLERY.exists():
        shutil.copytree(GALLERY, Path(config.site_dir) / "gallery", dirs_exist_ok=True)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    from mkdocs.structure.files import File

    for path in linked_files():
        if path.is_relative_to(ROOT / "docs"):
            continue
        uri = f"{OUTSIDE}/{path.relative_to(ROOT).as_posix()}"
        content: Any = path.read_text(encoding="utf-8") if path.suffix == ".md" else path.read_bytes()
        files.append(File.generated(config, uri, content=content))
    for page in ROOMS:
        files.append(File.generated(config, f"reference/{page}.md", content=reference_page(page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links into the repository become links of the site, pictures too; a link to a folder becomes its text."""
    uri = page.file.src_uri
    if uri == "gallery.md":
        markdown = _gallery_links(markdown)
    source = ROOT / uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(OUTSIDE) else ROOT / "docs" / uri

    def moved(found: re.Match[str]) -> str:
        target = _target(source, found[2])
        if target is None:
            return found[0]
        if target.is_dir():
            return f"{found[1]}index.md{found[4]}" if target == ROOT else f"{found[1]}#{found[4]}"
        inside = target.is_relative_to(ROOT / "docs")
        new = target.relative_to(ROOT / "docs") if inside else OUTSIDE / target.relative_to(ROOT)
        up = "../" * uri.count("/")
        return f"{found[1]}{up}{new.as_posix()}{found[3] or ''}{found[4]}"

    parts = re.split(r"(^(?:```|~~~).*?^(?:```|~~~))", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        part if part.startswith(("```", "~~~")) else _LINK.sub(moved, _follow_the_toggle(part)) for part in parts
    )


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Hugging Face's way of writing docstrings, as a reader should see it: [`~a.Name`] is Name, and the markup of a
    parameter's type does not show; its default stands in the docstring already."""
    if not page.file.src_uri.startswith("reference/"):
        return html
    html = re.sub(r"\[<code>~(?:[\w.]+\.)?(\w+)</code>\]|\[<code>([\w.]+)</code>\]", r"<code>\1\2</code>", html)
    typed = re.compile(r"<code>([^<]*(?:`|\*optional\*)[^<]*)</code>(, default:\s*<code>[^<]*</code>)?")
    return typed.sub(
        lambda m: f"<code>{re.sub('[`*]|~?trl_rsa[.]', '', m[1]).replace('[', '').replace(']', '')}</code>", html
    )
