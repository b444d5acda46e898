"""Settings of the documentation site (`make docs`): the Markdown pages and the reference of the code.

The source folder is the repository's root, because the pages link to files in it as on a code host. Formulas
become MathML when the site is built, so that neither building nor reading it needs the network.
"""

from __future__ import annotations

import os
import re
import sys
from html import escape
from pathlib import Path
from typing import Any

os.environ["NUMBA_DISABLE_JIT"] = "1"  # compiled functions stay Python functions, with their signatures
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from docutils.nodes import SkipNode  # noqa: E402
from docutils.utils.math import MathError, latex2mathml  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from distributed_maddpg import __version__  # noqa: E402

project, author = "distributed_maddpg", "the distributed_maddpg authors"
project_copyright = f"2026 {author}"
version = release = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "cluster/**.md", "benchmarks/**.md"]
exclude_patterns = [
    ".*",
    "**/.*",
    "build",
    "runs",
    "dist",
    "shared",
    "**/*.egg-info",
    "tests",
    "distributed_maddpg",
]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "myst_parser"]
html_theme, html_title = "furo", f"distributed_\u200bmaddpg {version}"  # may be folded there
html_theme_options = {"source_edit_link": "", "source_view_link": ""}
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"
smartquotes = False  # what is quoted may be copied

myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4  # links to headings, as code hosts make them
suppress_warnings = [
    "myst.header",  # decisions and generated pages begin where they like
    "misc.highlighting_failure",  # excerpts that leave out a part
    "ref.python",  # several classes of one short name: the nearest is linked
]

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "ignore-module-all": True, "show-inheritance": True}
autodoc_typehints_format = "short"
autoclass_content = "both"  # the arguments are described in __init__
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!distributed_maddpg\.).*"),  # other packages, whose sites are not read
    (r"py:.*", r".*\.(_\w+|[A-Z]|Annotated.*)"),  # private classes, type variables, tyro's annotations
]

_MODULES = re.compile(r"^<!-- modules: (.+) -->$", re.MULTILINE)
# A fenced block, code in single backticks, or a character that has a meaning in reStructuredText alone.
_MARKDOWN = re.compile(r"^```(\w*)\n(.*?)\n```$|`([^`]+)`|([*|]|(?<=\w)_(?!\w))", re.MULTILINE | re.DOTALL)
_PYTHONS_OWN = "Create new instance of "  # of named tuples


def modules_of(names: str) -> list[str]:
    """Return modules by their places in the package, each once; `envs/` stands for all files in it."""
    found = {}
    for name in names.split():
        path = ROOT / "distributed_maddpg" / name
        files = sorted(path.rglob("*.py")) if name.endswith("/") else [path.with_suffix(".py")]
        for file in files:
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts).removesuffix(".__init__")] = True
    return list(found)


def insert_modules(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the reference of modules in the place of a comment `<!-- modules: envs/ rollout -->` of a page."""

    def reference(match: re.Match[str]) -> str:
        blocks = [
            f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```" for name in modules_of(match[1])
        ]
        return "\n\n".join(blocks)

    source[0] = _MODULES.sub(reference, source[0])


def as_restructured_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the Markdown of docstrings, which is fences and single backticks, into what autodoc reads."""
    text = "\n".join(line for line in lines if not line.startswith(_PYTHONS_OWN))
    lines[:] = _MARKDOWN.sub(_restructured, text).split("\n")
    if what in ("attribute", "data", "property"):
        # Napoleon takes what stands before a colon in the first line for the type; a backslash is nothing.
        lines.insert(0, "\\")


def _restructured(match: re.Match[str]) -> str:
    language, block, code, symbol = match.groups()
    if block is not None:
        indented = block.replace("\n", "\n    ")
        return f"\n.. code-block:: {language or 'text'}\n\n    {indented}\n"
    return f"``{code}``" if code else f"\\{symbol}"


def visit_math(self: Any, node: Any) -> None:
    """Write an inline formula as MathML."""
    self.body.append(as_mathml(node.astext(), False))
    raise SkipNode


def visit_math_block(self: Any, node: Any) -> None:
    """Write a formula on lines of its own as MathML."""
    self.body.append(f'<div class="math">{as_mathml(node.astext(), True)}</div>')
    raise SkipNode


def as_mathml(formula: str, block: bool) -> str:
    """Return MathML for LaTeX; a formula that cannot be read ends the build."""
    try:
        return latex2mathml.tex2mathml(formula, as_block=block)
    except MathError as error:
        raise ValueError(f"formula {formula!r}: {error}") from error


def write_entry(app: Sphinx, error: Exception | None) -> None:
    """Lead from the site's root to its first page."""
    if error is None and app.builder.name == "html":
        page = escape(f"{root_doc}.html")
        entry = (
            f'<!doctype html><meta http-equiv="refresh" content="0; url={page}"><a href="{page}">Start</a>\n'
        )
        Path(app.outdir, "index.html").write_text(entry, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions above."""
    app.connect("source-read", insert_modules)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
    app.connect("build-finished", write_entry)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
