"""Networks and bijections that know nothing of any model."""
