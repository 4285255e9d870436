"""The form in which adapters travel, and the count of what it costs."""
