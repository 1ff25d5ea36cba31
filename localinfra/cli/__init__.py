"""One file per command, heavy imports inside the command. Talks to a server, or starts one."""
