"""Options of `jax.jit` for programs whose cost is known, whatever the suite runs under."""

# For what runs once: compiling takes nearly all of the time.
UNOPTIMIZED = {
    "xla_backend_optimization_level": "0",
    "xla_llvm_disable_expensive_passes": True,
}
# For loops over many seeds: they repay a second of compiling several times.
OPTIMIZED = {"xla_backend_optimization_level": "3"}
