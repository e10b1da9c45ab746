"""Parts of the Review step: rankings, the survey beside the GUI thread, the panels below the canvas."""
