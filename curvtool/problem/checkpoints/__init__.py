"""Checkpoints: what a file is, and its weights, read without running what is in it."""
