"""A report as one self-contained page: no network, hover and zoom, tables that sort, light and dark."""
