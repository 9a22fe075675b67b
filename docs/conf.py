"""Settings of the documentation site: `make docs` builds it into docs/_build."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import docstrings  # noqa: E402
import generate  # noqa: E402

import leadwise  # noqa: E402

project = "leadwise"
author = "The leadwise founders"
copyright = "the leadwise authors. Research use only. Not a medical device."
version = release = leadwise.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's own docstrings are not ours
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # a default is printed as the source writes it
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"leadwise {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app: object) -> None:
    """Write the generated pages, then read the docstrings as plain text."""
    app.connect("builder-inited", lambda app: generate.write_pages(HERE))  # type: ignore[attr-defined]
    app.connect("source-read", generate.point_links_into_the_site)  # type: ignore[attr-defined]
    app.connect("autodoc-process-docstring", docstrings.convert, priority=400)  # type: ignore[attr-defined]
