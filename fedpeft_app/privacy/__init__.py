"""What may be learnt: mechanisms that add noise, and what all of them together guarantee."""
