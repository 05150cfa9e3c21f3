"""A loaded problem at work: from the configuration to the report."""
