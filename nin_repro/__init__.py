"""A reproduction of Network In Network (Lin, Chen, Yan, arXiv 1312.4400)."""

__version__ = "0.1.0"
