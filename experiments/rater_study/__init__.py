"""What a rater finds in corrupted data, and what that buys: the studies behind docs/datarater."""
