"""`fedpeft`: the kind way in."""

from fedpeft_app.cli.main import main

__all__ = ["main"]
