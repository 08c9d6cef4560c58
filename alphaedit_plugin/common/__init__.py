"""What knows no model: errors, files, the console, factored deltas."""
