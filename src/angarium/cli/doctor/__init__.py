"""`angarium doctor`: what of the machine and of a domain keeps mail from going well."""
