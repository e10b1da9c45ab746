"""What ties the rooms together for a person: projects, the worker, the demonstration, the doctor. No Qt."""
