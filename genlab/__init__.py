"""genlab: a config-driven experiment runner for deep generative models on small images."""

__version__ = "0.1.0"
