"""Tasks: from raw examples to a loss and metrics, one file each."""
