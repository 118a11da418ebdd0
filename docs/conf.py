"""The settings by which Sphinx builds this documentation: `make docs`."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "libkd-sdk"
author = "The libkd-sdk authors"
copyright = "2026, The libkd-sdk authors"
release = version = metadata.version("libkd-sdk")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "from_code",
]
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
autoclass_content = "both"  # the arguments of a class are documented in its constructor
default_role = "code"  # docstrings write `name`, as Markdown does

html_theme = "furo"
html_title = f"libkd-sdk {release}"
html_copy_source = False
