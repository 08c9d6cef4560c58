"""From YAML to typed objects, and from these to what they name."""
