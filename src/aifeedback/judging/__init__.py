"""A model as judge: pairs, single responses, panels, calibration, principles, revision, safety."""
