"""Recipes and what runs them: steps in order, the run folder, the forecast, the summary, provenance."""
