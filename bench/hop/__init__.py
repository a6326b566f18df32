"""What the way to the next hop costs: routing, look-ups and policies, and TLS."""
