"""A reproduction of Network In Network (Lin, Chen, Yan, arXiv 1312.4400)."""
