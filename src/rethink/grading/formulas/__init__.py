"""Read answers, as trees, and compare them."""
