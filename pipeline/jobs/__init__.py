"""What a job of the workflow is made of: configuration, seeds, processes, records."""
