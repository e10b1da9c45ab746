"""The worker: a process that runs jobs for the dock, here or on another machine, and the client that talks to it."""
