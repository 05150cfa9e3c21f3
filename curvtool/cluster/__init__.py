"""Ranks: one process alone, or a group of them, behind one seam; nothing else knows which."""
