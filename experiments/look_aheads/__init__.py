"""What is measured of `litselect.scoring.meta_gradients`."""
