"""Pictures of what models do: grids, curves, manifolds, animations."""
