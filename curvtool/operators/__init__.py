"""Linear operators of a problem: one matrix a file, none of them ever formed."""
