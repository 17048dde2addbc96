"""Image sets: named in YAML, fetched and verified where missing, read as uint8 tensors."""

from genlab.data.config import DatasetConfig
from genlab.data.images import Images
from genlab.data.load import data_spec, ensure_available, load_images

__all__ = ["DatasetConfig", "Images", "data_spec", "ensure_available", "load_images"]
