"""Tools over the engine and the model: the command line and what it prints."""
