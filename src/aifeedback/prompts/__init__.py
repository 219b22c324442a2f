"""Judge prompts, constitutions and rubrics: YAML files, their loader, their renderer and their lint."""
