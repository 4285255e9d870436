"""What a person sees: the journal, and views of it."""
