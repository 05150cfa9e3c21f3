"""Norms of the input-output Jacobian of every example."""
