"""Networks whose features FID and its relatives compare, one file for each kind."""
