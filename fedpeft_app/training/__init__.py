"""What one node does: fit, evaluate, and the warm worker that holds what both need."""
