"""What helps before the first number: what a file holds, a project file, what this installation can do."""
