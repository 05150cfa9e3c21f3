"""From a configuration to a report."""
