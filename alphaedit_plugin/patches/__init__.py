"""Edits on disk: a journal that grows with a run, and patches that move it elsewhere."""
