"""Estimate what a run needs before it starts: memory per GPU, item by item, and tokens per update."""
