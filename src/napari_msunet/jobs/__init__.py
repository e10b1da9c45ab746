"""Running jobs: here with `run`, or in a worker process, on this machine or another, through its client."""
