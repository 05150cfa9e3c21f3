"""Ranks: one process alone now, behind the seam through which a group of them would work."""
