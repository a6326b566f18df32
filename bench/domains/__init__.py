"""A tail of distinct domains by MX, Angarium and Postfix in turn: `python -m bench.domains run`."""
