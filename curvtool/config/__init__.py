"""Typed run configuration: declared once, filled from flags, variables and a project file."""
