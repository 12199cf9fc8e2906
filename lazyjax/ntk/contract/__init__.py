"""From sites and cotangents to kernels."""
