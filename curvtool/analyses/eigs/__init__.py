"""Extreme eigenvalues, each with an estimate of its error."""
