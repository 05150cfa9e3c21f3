"""Renderers: each takes a report and computes nothing."""
