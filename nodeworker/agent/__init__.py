"""The worker process: it listens to NATS, to the OCI runtime and to the command line, and executes what it is asked."""
