"""What the window shows of trainings that take long: the search for their options."""
