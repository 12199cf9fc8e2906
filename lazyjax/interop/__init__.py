"""Models of other libraries as `(apply_fn, params)`, fit for every function here.

`lazyjax.interop.flax` adapts Linen and NNX, `lazyjax.interop.equinox` Equinox; each is
imported by its own name, so that none costs those who do without, as is
`lazyjax.interop.neural_tangents`, which makes that library run again, and
`lazyjax.interop.scikit_learn`, whose estimators fit kernels in that library's conventions.
A transformed Haiku function `f` needs no adapter: `apply_fn = lambda params, x:
f.apply(params, None, x)`, written once and kept, with `params` as `f.init` gives them.
"""
