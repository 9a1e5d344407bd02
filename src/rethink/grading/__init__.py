"""Finding the answer in a reply, and comparing it with the gold answer."""
