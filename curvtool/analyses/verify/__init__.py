"""The same numbers by other tools."""
