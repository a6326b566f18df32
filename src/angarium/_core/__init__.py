"""The compiled core. Every module here is built from cext/; without them the relay does not start."""
