"""What to watch during training, one file each; a callback looks, and never moves the training."""
