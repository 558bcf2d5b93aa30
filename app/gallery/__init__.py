"""A folder of clips as a page: one file that stands by itself, or served while the run records."""
