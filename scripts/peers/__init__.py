"""genlab and what a user would otherwise pick, on the same work: one file a family, see ../bench.py."""
