"""What mkdocs does besides its plugins: drawings stand in the page, notebooks are shown as they were run.

A drawing that is part of the page takes the colours of the theme that the reader has chosen; as an image it
would know those of the system alone.
"""

import base64
import re
from pathlib import Path

import nbformat
from mkdocs.structure.files import File

NOTEBOOK = re.compile(r"\(([\w/-]+)\.ipynb\)")
IMAGE = re.compile(r'<img [^>]*src="([^":]*drawings/[^"]+\.svg)"[^>]*/?>')


def on_page_content(html, page, config, files):
    """Put each drawing's own markup in its image's place."""
    folder = Path(config.docs_dir) / "drawings"
    return IMAGE.sub(lambda found: (folder / Path(found[1]).name).read_text(encoding="utf-8"), html)


def on_page_markdown(markdown, page, config, files):
    """Lead to a notebook's page rather than to its file."""
    return markdown if page.file.generated_by else NOTEBOOK.sub(r"(\1.md)", markdown)


def on_files(files, config):
    """Add a page for each notebook, with what its cells gave."""
    for path in sorted(Path(config.docs_dir, "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, name, content=_as_markdown(path)))
    return files


def _as_markdown(path):
    """The cells one after the other."""
    parts = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
        elif cell.cell_type == "code":
            parts.append(f"```python\n{cell.source}\n```")
            parts += map(_shown, cell.outputs)
    link = f"[Download this notebook]({path.name})"
    return "\n\n".join([parts[0], link, *parts[1:]]) + "\n"


def _shown(output):
    """One output: a picture, or a text."""
    data = output.get("data", {})
    if "image/svg+xml" in data:
        svg = "".join(data["image/svg+xml"])
        return f'<img alt="" src="data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}">'
    if "image/png" in data:
        return f'<img alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    text = output.get("text") or data.get("text/plain", "")
    return f"```text\n{''.join(text).rstrip()}\n```"
