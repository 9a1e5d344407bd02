"""Report pages and charts, made from the files of a run folder."""
