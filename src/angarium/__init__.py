"""Angarium: an SMTP relay that is fast per core, safe at 250, and open to inspection."""

__version__ = "0.1.0"
