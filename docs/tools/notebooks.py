"""Run the notebooks; render them, and what else is generated, as pages. A hook and a script.

As a script: ``python docs/tools/notebooks.py FOLDER [NAME...]`` runs them into FOLDER,
each in a folder of its own, with kernels that listen on loopback.
As a hook it takes them from the folder that KAPPAMASK_EXECUTED names, or runs them.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
DECISIONS = ROOT / "docs" / "decisions"
# Pages that others link to and that come with the work they describe.
PROMISED = {
    "training.md": "Training",
    "performance.md": "Performance",
    "model-card.md": "Model card",
    "reliability.md": "Reliability",
    "security.md": "Security",
}
CELL_TIMEOUT_S = 600  # a busy machine is no failure


def list_notebooks() -> list[Path]:
    """List the scripts, in the order of their names."""
    return sorted(NOTEBOOKS.glob("*.py"))


def run_all(scripts: Iterable[Path], folder: Path) -> list[Path]:
    """Run percent scripts as notebooks; write each as ``NAME.ipynb`` with its outputs to `folder`.

    One kernel runs them in turn, each in a folder of its own and without the names of the one
    before: much of a notebook is a kernel that starts and imports.
    """
    import jupytext
    import nbformat
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient

    folder.mkdir(parents=True, exist_ok=True)
    kernel = KernelManager(kernel_name="python3")
    written = []
    with tempfile.TemporaryDirectory() as scratch:
        try:
            for script in scripts:
                place = Path(scratch) / script.stem
                place.mkdir()
                begin = f"%cd -q {place}\n%reset -f\nget_ipython().execution_count = 0"
                notebook = jupytext.read(script)
                notebook.cells.insert(0, nbformat.v4.new_code_cell(begin))
                NotebookClient(notebook, km=kernel, timeout=CELL_TIMEOUT_S).execute()
                del notebook.cells[0]
                written.append(folder / f"{script.stem}.ipynb")
                nbformat.write(notebook, written[-1])
        finally:
            if kernel.has_kernel:
                kernel.shutdown_kernel(now=True)
    return written


def render(executed: Path) -> tuple[str, dict[str, bytes]]:
    """Turn an executed notebook into markdown and its pictures, by file name."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(executed))
    pictures = {f"{executed.stem}_{name}": data for name, data in resources["outputs"].items()}
    for name in resources["outputs"]:
        text = text.replace(f"({name})", f"({executed.stem}_{name})")
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    source = f"notebooks/{executed.stem}.py"
    return f"{text}\n---\n*This page is `{source}`, run when the pages were built.*\n", pictures


def on_files(files: Any, config: Any) -> Any:
    """Add the notebooks to the pages (mkdocs calls this)."""
    from mkdocs.structure.files import File

    with tempfile.TemporaryDirectory() as scratch:
        given = os.environ.get("KAPPAMASK_EXECUTED")
        if not given:
            run_all(list_notebooks(), Path(scratch))
        pages: dict[str, str | bytes] = {"decisions.md": list_decisions()}
        for executed in sorted(Path(given or scratch).glob("*.ipynb")):
            text, pictures = render(executed)
            pages[f"notebooks/{executed.stem}.md"] = text
            pages |= {f"notebooks/{name}": content for name, content in pictures.items()}
    for name, title in PROMISED.items():
        if not (ROOT / "docs" / name).is_file():
            pages[name] = f"# {title}\n\nThis page is not written yet.\n"
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def list_decisions() -> str:
    """List the records of decisions by title."""
    lines = ["# Decisions", "", "What cost a discussion, and why it went as it did.", ""]
    for path in sorted(DECISIONS.glob("*.md")):
        title = path.read_text("utf-8").partition("\n")[0].lstrip("# ")
        lines.append(f"- [{title}](decisions/{path.name})")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run them into a folder."""
    parser = argparse.ArgumentParser(description="Run the notebooks.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", help="without suffix (default: all)")
    options = parser.parse_args()
    chosen = [
        script for script in list_notebooks() if not options.names or script.stem in options.names
    ]
    run_all(chosen, options.folder)


if __name__ == "__main__":
    main()
