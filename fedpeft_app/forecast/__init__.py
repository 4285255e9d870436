"""What a run will cost and guarantee, said before it starts."""
