"""Training a rater."""
