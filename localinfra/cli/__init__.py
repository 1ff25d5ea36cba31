"""One file for each command, with heavy imports inside it: a terminal before the other rooms."""
