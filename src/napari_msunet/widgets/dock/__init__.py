"""The dock that leads from a slide to exported labels."""
