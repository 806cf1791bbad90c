# Copyright 2026 the kd_perception authors. SPDX-License-Identifier: Apache-2.0
"""Sphinx project of the documentation, for `make docs` and for rosdoc2 (rosdoc2.yaml)."""
import re

project = 'kd_perception'
author = 'the kd_perception authors'
copyright = '2026, the kd_perception authors'
extensions = ['myst_parser']
root_doc = 'index'
# index.rst includes it.
exclude_patterns = ['README.md']
html_theme = 'sphinx_rtd_theme'
html_title = 'kd_perception'
myst_heading_anchors = 4


def unlink_files_outside(app, docname, source):
    """
    Turn links that leave docs/ into plain text: the pages are published without the repository.

    In the repository itself these links work, and tools/docs_check.py checks them.
    """
    up = '../' * (docname.count('/') + 1)
    source[0] = re.sub(rf'(?<!!)\[([^\]]+)\]\({re.escape(up)}[^)]*\)', r'\1', source[0])


def unlink_in_included(app, relative_path, docname, content):
    """Do the same for README.md, which index.rst includes."""
    unlink_files_outside(app, docname, content)


def setup(app):
    """Register the event handlers with Sphinx."""
    app.connect('source-read', unlink_files_outside)
    app.connect('include-read', unlink_in_included)
    return {'parallel_read_safe': True}
