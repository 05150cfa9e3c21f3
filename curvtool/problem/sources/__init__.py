"""Sources of data: files and folders that become samples in a fixed order."""
