"""`angarium demo`: a sandbox with something to see. command.py runs it, world.py is who takes the mail, traffic.py sends it."""
