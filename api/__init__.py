"""HTTP in, HTTP out: the REST contract over the queue, with no decisions of its own."""
