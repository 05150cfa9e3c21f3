"""Algorithms on vectors: they know no model, no file and no terminal."""
