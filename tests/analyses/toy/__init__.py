"""A kind of analysis of the tests' own: the largest gradient entry. Nothing of the package knows it."""
