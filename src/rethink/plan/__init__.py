"""What a run will need, before anything starts: memory per GPU by item, and tokens per update."""
