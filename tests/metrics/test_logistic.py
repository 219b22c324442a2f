"""Our sandwich covariance against statsmodels', on soft labels."""

import numpy as np
import statsmodels.api as sm

from aifeedback.metrics.length import fit_logistic, sigmoid


def test_the_sandwich_equals_statsmodels() -> None:
    rng = np.random.default_rng(0)
    design = np.column_stack([np.ones(300), rng.normal(size=300)])
    targets = np.clip(sigmoid(design @ [0.3, 0.5]) + rng.normal(0, 0.1, 300), 0, 1)
    groups = rng.integers(0, 60, 300)
    model = sm.GLM(targets, design, family=sm.families.Binomial())
    robust = model.fit(cov_type="HC0").cov_params() * 300 / 298
    clustered = model.fit(cov_type="cluster", cov_kwds={"groups": groups}).cov_params()
    np.testing.assert_allclose(fit_logistic(design, targets).covariance, robust, rtol=1e-8)
    np.testing.assert_allclose(fit_logistic(design, targets, groups).covariance, clustered, rtol=1e-8)
