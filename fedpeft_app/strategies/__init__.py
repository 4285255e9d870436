"""What the server does: roll call, rounds, sampling, guard, aggregation."""
