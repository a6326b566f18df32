"""Where accepted mail goes; documented in cext/intake.pyx."""

from collections.abc import Callable

from typing_extensions import disjoint_base

from angarium._core.record import Message

@disjoint_base
class Intake:
    """Where accepted mail goes. Its methods are C: see JournalIntake and CallbackIntake."""

@disjoint_base
class CallbackIntake(Intake):
    """An intake that calls Python: deliver(message, done) must call done(errno) once, now or later; 0: it is safe."""

    def __init__(self, deliver: Callable[[Message, Committed], None]) -> None: ...

@disjoint_base
class Committed:
    """Tells a session once what became of its message; a second call does nothing."""

    def __call__(self, error: int = 0) -> None: ...

__test__: dict[str, str]
