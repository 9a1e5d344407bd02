"""What a run will need, before anything starts: memory per GPU by item, tokens per update, hours. Arithmetic, no torch."""
