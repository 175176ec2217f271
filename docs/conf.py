"""Settings of Sphinx: `python -m sphinx -W docs OUT` builds the site, with no network."""

from importlib.metadata import version as version_of

project = "napari-dmsp"
author = "napari-dmsp contributors"
copyright = author
release = version_of("napari-dmsp")
version = release

extensions = ["sphinx.ext.autodoc", "numpydoc", "myst_parser"]
exclude_patterns = ["README.md"]
html_theme = "furo"
html_title = f"napari-dmsp {release}"
html_logo = "../src/napari_dmsp/icon.png"
html_show_copyright = False
html_show_sourcelink = False

# Headings are targets of links, as on the pages of a repository.
myst_heading_anchors = 3
# The names of a class are in its docstring already.
numpydoc_show_class_members = False
# Types in docstrings are enough; signatures stay short.
autodoc_typehints = "none"
autodoc_member_order = "groupwise"
# Names in single backticks are links where they are known.
default_role = "py:obj"
