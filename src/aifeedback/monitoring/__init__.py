"""Watching a judge and a policy after deployment: dated rounds, control charts, a chained log, appeals."""
