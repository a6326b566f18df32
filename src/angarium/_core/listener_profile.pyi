"""What all sessions of one listener have in common; documented in cext/listener_profile.pyx."""

from collections.abc import Callable
from typing import Any, Never, Protocol

from typing_extensions import disjoint_base

from angarium._core.client_terms import ClientTerms
from angarium._core.decision import Decision
from angarium._core.recipient_policy import RecipientPolicy
from angarium._core.server_session import ServerSession

class _Exchange(Protocol):
    def step(self, response: bytes | None, decide: Decision, /) -> None: ...

@disjoint_base
class ListenerProfile:
    """What all sessions of one listener have in common."""

    def __init__(
        self,
        *args: Never,
        hostname: bytes,
        name: bytes,
        client_policy: Callable[[str], ClientTerms | tuple[bool, bool]],
        durability: int = ...,
        message_octets: int = ...,
        header_octets: int = 256000,
        recipients: int = 1000,
        command_octets: int = 2048,
        errors: int = 20,
        commands_per_second: int = 1000,
        hops: int = 100,
        transactions: int = 0,
        connections: int = 10000,
        connections_per_client: int = 1000,
        idle_timeout_s: float = 300,
        data_timeout_s: float = 3600,
        authentication_required: bool = False,
        authentication: Callable[[bytes, ServerSession], _Exchange | None] | None = None,
        mechanisms: tuple[bytes, ...] = (),
        start_tls: Callable[[ServerSession], None] | None = None,
        future_release_s: int = 0,
        priorities: bytes | None = None,
        identity_policy: Callable[[str, str, Any], ClientTerms] | None = None,
        client_certificate: Callable[[str, Any], Any] | None = None,
        xclient: Callable[[str], bool] | None = None,
        recipient_policy: RecipientPolicy | None = None,
        lmtp: bool = False,
    ) -> None:
        """client_policy: address -> ClientTerms, or (may relay, may send bare newlines) where nothing else is granted.

        authentication: mechanism, session -> exchange or None; each response is given to its `step`, which has the
        Decision answered with the next challenge (base64 octets), the log-in that was proved (str) or an AuthVerdict.
        message_octets, errors and transactions: 0 means no limit. future_release_s: the longest that FUTURERELEASE
        allows, 0: it is not offered. priorities: the name of the profile that MT-PRIORITY is offered with, b"" for
        none, None: it is not offered.

        identity_policy: address, log-in ("": none), certificate (None: none) -> ClientTerms, asked when there is one of
        the two. client_certificate: address, ssl object -> what the client's certificate is known as (hashable), or
        None. xclient: address -> whether XCLIENT is offered to it. recipient_policy: which recipients are taken from
        clients that may not relay; None: none. lmtp: RFC 2033.
        """
    @property
    def hostname(self) -> bytes: ...
    @property
    def name(self) -> bytes: ...
    @property
    def durability(self) -> int: ...
    @property
    def message_octets(self) -> int: ...
    @property
    def header_octets(self) -> int: ...
    @property
    def recipients(self) -> int: ...
    @property
    def command_octets(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def commands_per_second(self) -> int: ...
    @property
    def hops(self) -> int: ...
    @property
    def transactions(self) -> int: ...
    @property
    def connections(self) -> int: ...
    @property
    def connections_per_client(self) -> int: ...
    @property
    def idle_timeout_s(self) -> float: ...
    @property
    def data_timeout_s(self) -> float: ...
    @property
    def authentication_required(self) -> bool: ...
    @property
    def client_policy(self) -> Callable[[str], ClientTerms | tuple[bool, bool]]: ...
    @property
    def authentication(self) -> Callable[[bytes, ServerSession], _Exchange | None] | None: ...
    @property
    def mechanisms(self) -> tuple[bytes, ...]: ...
    @property
    def start_tls(self) -> Callable[[ServerSession], None] | None: ...
    @property
    def future_release_s(self) -> int: ...
    @property
    def priorities(self) -> bytes | None: ...
    @property
    def identity_policy(self) -> Callable[[str, str, Any], ClientTerms] | None: ...
    @property
    def client_certificate(self) -> Callable[[str, Any], Any] | None: ...
    @property
    def xclient(self) -> Callable[[str], bool] | None: ...
    @property
    def recipient_policy(self) -> RecipientPolicy | None: ...
    @property
    def lmtp(self) -> bool: ...
    def forget_clients(self) -> None:
        """Ask client_policy and identity_policy again for everybody."""
    @property
    def successor(self) -> ListenerProfile | None:
        """What holds from the next transaction on; None: this one."""
    def policy_of(self, address: str) -> ClientTerms:
        """What client_policy says of an address; remembered."""
    def terms_of(self, address: str, log_in: str, certificate: Any) -> ClientTerms:
        """What the policies say of a client who has proved who it is; remembered. Without a proof: policy_of."""

__test__: dict[str, str]
