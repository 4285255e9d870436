"""The model that stays: found, fingerprinted, loaded once per process."""
