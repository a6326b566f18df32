class Bouncer:
    def __init__(self, *a, **k): pass
    def bounce(self, message, failures): pass
