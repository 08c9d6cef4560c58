"""Many edits: the comparison, sweeps, and what is made of their results."""
