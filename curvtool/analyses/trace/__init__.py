"""The trace, with its confidence interval."""
