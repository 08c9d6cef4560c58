"""What edits gained and what they broke: a file per metric, or per family of metrics."""
