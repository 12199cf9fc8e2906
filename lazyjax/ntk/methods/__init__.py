"""Ways to form a kernel: Jacobians, vector products, structure."""
