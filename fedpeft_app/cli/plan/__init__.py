"""`fedpeft plan`: what a run would send, take and guarantee, before anything runs."""
