"""Hold an emitted pipeline against its parts, against the unsplit model and against its prediction, in one run."""
