"""The networks: each one a readable file, with its equations cited."""
