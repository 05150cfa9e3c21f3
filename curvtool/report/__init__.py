"""The report: the one thing that renderers and other programs read."""
