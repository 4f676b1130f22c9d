"""What is measured of a selected step."""
