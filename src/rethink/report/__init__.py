"""Pages made from a run folder alone."""
