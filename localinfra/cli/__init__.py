"""One file for each command; heavy imports inside it. Talks to a server, or starts one."""
