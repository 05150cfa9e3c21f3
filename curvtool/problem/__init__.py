"""Model, data and loss become pure functions of parameters; the only room that knows modules and files."""
