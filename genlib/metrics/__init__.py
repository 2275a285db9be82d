"""Numbers: features -> statistics -> metric. Pure functions, float64 statistics."""
