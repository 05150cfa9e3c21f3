"""The quantities: a folder each, which holds all that knows its kind."""
