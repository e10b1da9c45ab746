"""Running jobs: in this process with `run`, or in a worker process, on this machine or another, through its client."""
