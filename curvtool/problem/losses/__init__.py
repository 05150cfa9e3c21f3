"""The losses: each its sum over a batch, its weight, and its second derivative in the outputs."""
