"""The command line: flags become a configuration, errors an exit status."""
