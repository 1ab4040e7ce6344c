"""Real images that install from PyPI, and the paper's data sets through torchvision."""
