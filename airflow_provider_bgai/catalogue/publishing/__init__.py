"""From what became of every product to the files the shop reads: all at once, or none."""
