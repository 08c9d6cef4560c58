"""What does not depend on models: errors, files, the console, factored deltas."""
