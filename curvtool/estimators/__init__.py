"""Estimators: one quantity a file, each with the error of its number; they see operators alone."""
