"""The null-space projector: second moments, the cut, applying, saving, diagnosing."""
