"""Words, options, progress and exit codes of the command line."""
