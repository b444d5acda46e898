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

from docutils.utils.math import MathError, latex2mathml  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

from distributed_maddpg import __version__  # noqa: E402

project, author = "distributed_maddpg", "the distributed_maddpg authors"
project_copyright = f"2026 {author}"
version = release = __version__

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "cluster/**.md", "benchmarks/**.md"]
exclude_patterns = [".*", "**/.*", "build", "runs", "dist", "shared", "**/*.egg-info", "tests", "distributed_maddpg"]
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
default_role = "code"
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!distributed_maddpg\.).*"),  # other packages, whose sites are not read
    (r"py:.*", r".*\.(_\w+|[A-Z]|Annotated.*)"),  # private classes, type variables, tyro's annotations
]

_MODULES = re.compile(r"^<!-- modules: (.+) -->$", re.MULTILINE)
_FENCE = re.compile(r"^```(\w*)$")
_CODE = re.compile(r"`([^`]+)`")


def modules_of(names: str) -> list[str]:
    """Return modules by their places in the package, each once; `envs/` stands for all files of the folder."""
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
        blocks = [f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```" for name in modules_of(match[1])]
        return "\n\n".join(blocks)

    source[0] = _MODULES.sub(reference, source[0])


def as_restructured_text(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Turn the Markdown of docstrings, which is fences and single backticks, into what autodoc reads."""
    # Napoleon takes what stands before a colon in an attribute's first line for its type; a backslash is nothing.
    text = ["\\"] if what in ("attribute", "data", "property") else []
    fenced = False
    for line in lines:
        if line.startswith("Create new instance of "):  # Python's own text for named tuples
            continue
        fence = _FENCE.match(line.strip())
        if fence:
            fenced = not fenced
            text += ["", f".. code-block:: {fence[1] or 'text'}", ""] if fenced else [""]
        else:
            text.append(f"    {line}" if fenced else _with_literals(line))
    lines[:] = text


def _with_literals(line: str) -> str:
    """Return a line whose code is in double backticks, and whose asterisks are asterisks."""
    prose, code = _CODE.split(line)[::2], _CODE.findall(line)
    escaped = [re.sub(r"([*|])", r"\\\1", part) for part in prose]
    return "".join(f"{part}``{literal}``" for part, literal in zip(escaped, code)) + escaped[-1]


def visit_math(self: Any, node: Any) -> None:
    """Write an inline formula as MathML."""
    self.body.append(as_mathml(node.astext(), False))
    raise_skip()


def visit_math_block(self: Any, node: Any) -> None:
    """Write a formula on lines of its own as MathML."""
    self.body.append(f'<div class="math">{as_mathml(node.astext(), True)}</div>')
    raise_skip()


def raise_skip() -> None:
    """End the visit of a node whose text is written."""
    from docutils.nodes import SkipNode

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
        entry = f'<!doctype html><meta http-equiv="refresh" content="0; url={page}"><a href="{page}">Start</a>\n'
        Path(app.outdir, "index.html").write_text(entry, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the functions above."""
    app.connect("source-read", insert_modules)
    app.connect("autodoc-process-docstring", as_restructured_text, priority=400)  # before napoleon
    app.connect("build-finished", write_entry)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
