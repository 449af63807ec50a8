"""What a DAG author writes: parameters, templates, deferral. No HTTP, no pixels."""
