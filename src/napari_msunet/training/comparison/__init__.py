"""What trainings, experiments, cross-validations and evaluations found: pages, pictures and tables side by side."""
