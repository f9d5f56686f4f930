"""The `tidegate` command: starts the processes and speaks to the API."""
