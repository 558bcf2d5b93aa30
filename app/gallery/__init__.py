"""The gallery, internal, for `stepreel.cli`: a folder of clips as a page, in a file or served while the run records."""
