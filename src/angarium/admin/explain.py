"""The handler of `/api/v1/explain`: where mail to an address would go, and why.

Every worker is asked; the first that answers speaks for the node, and the connections and the obstacles of all are put
together. A session (`try`) is made by one worker alone.

Fails: 400 for an address that is none, 503 when no worker answers.
"""

from typing import Annotated

from litestar import Response, get
from litestar.exceptions import ClientException
from litestar.params import QueryParameter
from msgspec import structs
from msgspec.json import Decoder

from angarium.admin.model import Explanation, Inquiry
from angarium.admin.services import ServicesDependency, missing, results
from angarium.admin.workers import Question

__all__ = ["HANDLERS"]

LOOK_UP_S = 20.0  # names may take so long
TRIAL_S = 60.0

_EXPLANATION: Decoder[Explanation] = Decoder(Explanation)


@get("/api/v1/explain", tags=["explain"])
async def explain(
    *,
    services: ServicesDependency,
    address: Annotated[str, QueryParameter(description="a recipient", min_length=1, max_length=1000)],
    reverse_path: Annotated[
        str, QueryParameter(name="from", description="reverse path; empty: the null one", max_length=1000)
    ] = "",
    tenant: Annotated[str, QueryParameter(description="whose mail it is", max_length=255)] = "",
    listener: Annotated[str, QueryParameter(description="which listener accepted it", max_length=255)] = "",
    log_in: Annotated[str, QueryParameter(description="who had authenticated", max_length=255)] = "",
    trial: Annotated[bool, QueryParameter(name="try", description="make a session up to RCPT")] = False,
) -> Response[Explanation]:
    """Where mail to an address would go: route, hosts, TLS policy, limits, connections, and what would block it now."""
    inquiry = Inquiry(address=address, reverse_path=reverse_path, tenant=tenant, listener=listener, log_in=log_in)
    workers = services.workers
    answers = await workers.ask(Question(op="explain", inquiry=inquiry), _EXPLANATION, patience_s=LOOK_UP_S)
    refusals = [answer.error for answer in answers if answer.error is not None and "is not an address" in answer.error]
    if refusals:
        raise ClientException(detail=refusals[0])
    parts = results(answers)
    tried = None
    if trial:
        question = Question(op="explain", inquiry=structs.replace(inquiry, trial=True))
        tried = results([await workers.ask_any(question, _EXPLANATION, patience_s=LOOK_UP_S + TRIAL_S)])[0].trial
    merged = structs.replace(
        parts[0],
        workers=[worker for part in parts for worker in part.workers],
        blocks=list(dict.fromkeys(block for part in parts for block in part.blocks)),
        trial=tried,
    )
    return Response(merged, headers=missing(answers))


HANDLERS = (explain,)
