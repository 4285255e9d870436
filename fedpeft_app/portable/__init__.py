"""Modules that PEFT does not have, in files that exported folders carry a copy of.

Each needs torch, transformers and the standard library only, so that the code that trained a
model is the code that loads it.
"""
