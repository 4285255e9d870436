"""What outlives a process: run folders, checkpoints, exports."""
