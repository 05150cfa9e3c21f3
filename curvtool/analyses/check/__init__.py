"""The preflight alone."""
