"""Replacement policies of caches, one file each, over nodes in arrays; ``policy.py`` registers them."""
