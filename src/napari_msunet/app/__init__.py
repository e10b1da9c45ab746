"""What combines the other packages for a user: projects, the worker, the demonstration, the doctor. No Qt."""
