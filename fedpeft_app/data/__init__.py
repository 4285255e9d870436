"""What a node learns from: sources, splits, partitions, tokenised examples, tasks."""
