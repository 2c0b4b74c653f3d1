"""The tasks: for each one its data, its vocabulary and its metric."""
