"""Pages that open offline: the report of a run, of judges, of safety; their figures, wording and templates."""
