"""Who a node is, and what it keeps for itself between rounds."""
