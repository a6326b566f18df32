"""MAIL and RCPT; documented in cext/envelope.pyx. Nothing of it is for Python."""

__test__: dict[str, str]
