"""`angarium demo`: a sandbox with something to see. command.py runs it, world.py takes mail, traffic.py sends it."""
