"""Scores that tell images like the training set from others, one idea in each file."""
