"""What every table of the configuration is: a frozen Struct; its attributes carry their unit, its keys do not."""

from msgspec import Struct

__all__ = ["Section", "toml_key"]


def toml_key(attribute: str) -> str:
    """The key of an attribute: its name without the unit."""
    return attribute.removesuffix("_s").removesuffix("_octets").removesuffix("_")


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename=toml_key):
    """A table of the configuration."""
