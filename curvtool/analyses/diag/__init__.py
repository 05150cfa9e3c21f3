"""The diagonal, with a standard error for each entry."""
