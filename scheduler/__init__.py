"""The domain: what a job is, what it needs, who may run."""
