"""What mkdocs does for the site beyond docs/: pages made of the files at the top, and links that leave docs/.

On the repository's own pages README is the first page and links lead to sources; the site has neither, so README,
CONTRIBUTING and CHANGELOG become pages, and a link to a file that is no page becomes that file's path.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
TOP = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"\[([^]]*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """The files at the top as pages."""
    for source, page in TOP.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Links as the site has them."""
    here = next((source for source, name in TOP.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")

    def relinked(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(here), target))
        there = TOP.get(path, path.removeprefix("docs/"))
        if path not in TOP and not path.startswith("docs/"):
            return text if text.strip("`") == path else f"{text} (`{path}`)"
        if files.get_file_from_path(there) is None and (ROOT / path).is_dir():
            return text
        return f"[{text}]({posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or '.')}{anchor or ''})"

    return _LINK.sub(relinked, markdown)
