"""A rater of text, trained on the Python standard library's own documentation."""
