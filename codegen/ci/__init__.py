"""Whether a model's deployment got worse: a record of what it was, one of what it is, and what differs by more than noise."""
