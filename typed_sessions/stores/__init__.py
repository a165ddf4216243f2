"""Where sessions live. `base` is the contract; each other module is one store."""
