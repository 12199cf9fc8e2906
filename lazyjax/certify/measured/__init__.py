"""What published arguments rest on, measured along a run: diagnostics, no proofs."""

from lazyjax.certify.measured import (
    allen_zhu2019 as allen_zhu2019,
    du2019 as du2019,
    zou2018 as zou2018,
)
