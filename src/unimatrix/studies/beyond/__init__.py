"""What the paper does not ask."""
