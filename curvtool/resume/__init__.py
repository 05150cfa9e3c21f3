"""Runs that are stopped and go on: what is remembered, by name, and the folder that it is kept in."""
